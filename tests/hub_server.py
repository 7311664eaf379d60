"""A server of this machine that speaks the Hugging Face hub's HTTP interface, with real commits.

It knows what huggingface_hub's client asks of it to download and to push: repositories, branches,
commits, rights by token, git LFS for weights. It keeps everything in memory.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

WRITER, READER = "hf_writes0123456789", "hf_reads0123456789"
"""Tokens: of who may do everything, and of who may read what is public."""

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by name, and the commit of each branch and tag; the oldest first."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        """Write all files of a commit, and move a branch to it."""
        parts = [f"{len(self.commits)}", *sorted(files)]
        sha = hashlib.sha1("\0".join(parts).encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[branch] = sha
        return sha

    def at(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class Hub(http.server.ThreadingHTTPServer):
    """The hub.

    Attributes:
        repositories: by `OWNER/NAME`.
        asked: lines of the requests so far.
        cut: name of a file whose answer ends in the middle.
        no_commits: refuse every commit, as where a quota is used up.
        address: of it, as HF_ENDPOINT takes it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.stored: Files = {}
        self.cut = ""
        self.no_commits = False
        self.address = f"http://127.0.0.1:{self.server_port}"

    def environment(self, cache: Path, token: str = "", *, offline: bool = False) -> dict[str, str]:
        """Give the environment of a process that takes this server for the hub."""
        known = {name: of for name, of in os.environ.items() if not name.startswith("HF_")}
        return known | {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "1" if offline else "0",
            **({"HF_TOKEN": token} if token else {}),
        }


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub until the block ends."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "lfs":
            self.server.stored[parts[1]] = body
            self._json({})
        elif parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[:2] == ["api", "models"]:
            self._of_repository("/".join(parts[2:4]), parts[4:], body)
        elif parts[2:3] == ["resolve"]:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        elif parts[1].endswith(".git"):
            self._lfs(json.loads(body))
        else:
            self._refuse(404, "RepoNotFound")

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _create(self, wanted: dict[str, str]) -> None:
        name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        if self._token != WRITER:
            self._refuse(403 if self._token else 401)
        elif name in self.server.repositories:
            self._json(
                {"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "error": "exists"},
                409,
            )
        else:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.server.repositories[name] = Repository(private=private)
            self.server.repositories[name].commit({".gitattributes": b""})
            self._json({"url": f"{self.server.address}/{name}"})

    def _allowed(self, name: str) -> Repository | None:
        """Give a repository that this user may read; answer that there is none otherwise."""
        found = self.server.repositories.get(name)
        if found is None or (found.private and self._token != WRITER):
            self._refuse(404 if self._token else 401, "RepoNotFound")
            return None
        return found

    def _of_repository(self, name: str, rest: list[str], body: bytes) -> None:
        found = self._allowed(name)
        if found is None:
            return
        kind, revision = rest[0] if rest else "revision", rest[1] if len(rest) > 1 else "main"
        sha = found.at(revision)
        if kind == "branch" and self._token == WRITER:
            found.refs.setdefault(revision, found.refs["main"])
            self._json({})
        elif kind in {"branch", "preupload", "commit"} and self._token != WRITER:
            self._refuse(403)
        elif sha is None:
            self._refuse(404, "RevisionNotFound")
        elif kind == "commit" and self.server.no_commits:
            self._refuse(400)
        elif kind == "preupload":
            self._json({"files": [_mode(of) for of in json.loads(body)["files"]]})
        elif kind == "commit":
            self._commit(name, found, revision, body)
        elif kind == "tree":
            self._json([_entry(path, data) for path, data in found.commits[sha].items()])
        else:
            siblings = [{"rfilename": path} for path in found.commits[sha]]
            self._json({"id": name, "sha": sha, "private": found.private, "siblings": siblings})

    def _commit(self, name: str, found: Repository, branch: str, body: bytes) -> None:
        files = dict(found.commits[found.refs[branch]])
        for line in map(json.loads, body.splitlines()):
            of = line["value"]
            if line["key"] == "file":
                files[of["path"]] = base64.b64decode(of["content"])
            elif line["key"] == "lfsFile":
                files[of["path"]] = self.server.stored[of["oid"]]
        sha = found.commit(files, branch)
        self._json(
            {
                "commitUrl": f"http://127.0.0.1:{self.server.server_port}/{name}/commit/{sha}",
                "commitOid": sha,
            }
        )

    def _lfs(self, wanted: dict[str, list[dict[str, str]]]) -> None:
        base = f"{self.server.address}/lfs"
        objects = [
            {**of, "actions": {"upload": {"href": f"{base}/{of['oid']}"}}}
            for of in wanted["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._allowed(name)
        if found is None:
            return
        sha = found.at(revision)
        if found.gated and self._token != WRITER:
            self._refuse(403 if self._token else 401, "GatedRepo")
        elif sha is None:
            self._refuse(404, "RevisionNotFound")
        elif path not in found.commits[sha]:
            self._refuse(404, "EntryNotFound")
        else:
            self._file(found.commits[sha][path], sha, cut=path == self.server.cut)

    def _file(self, data: bytes, sha: str, *, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", sha)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = cut

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "refused")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _mode(of: dict[str, str]) -> dict[str, object]:
    large = of["path"].endswith(".safetensors")
    mode = "lfs" if large else "regular"
    return {"path": of["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _entry(path: str, data: bytes) -> dict[str, object]:
    oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": path, "size": len(data), "oid": oid}
