"""Files of pages, kept in memory, so that a client that takes one slowly keeps no file open."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources.abc import Traversable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response


class PageFile(NamedTuple):
    """A file with its media type and its entity tag (RFC 9110, section 8.8.3)."""

    content: bytes
    kind: str
    tag: str

    @classmethod
    def read(cls, path: Traversable) -> PageFile:
        """Read it."""
        content = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(content, kind, f'"{hashlib.sha256(content).hexdigest()}"')

    def answer(self, request: Request, policy: str | None = None) -> Response:
        """Give it, or status 304 where the browser has it.

        Args:
            request: what is answered.
            policy: content security policy in the place of the usual one.
        """
        headers = {"Cache-Control": "no-cache", "ETag": self.tag}
        if policy is not None:
            headers["Content-Security-Policy"] = policy
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.kind, headers=headers)


def page_files(folder: Traversable) -> dict[str, PageFile]:
    """Read all files of a folder, by name."""
    return {path.name: PageFile.read(path) for path in folder.iterdir() if path.is_file()}
