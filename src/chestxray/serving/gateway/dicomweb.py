"""A DICOMweb source: which studies and radiographs it has, and their files.

QIDO-RS for studies and their instances (PS3.18 section 10.6), WADO-RS for each instance (section
10.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from typing import Any, Final, NamedTuple

import httpx

from chestxray.serving.gateway.config import Poll
from chestxray.serving.gateway.intake import RADIOGRAPHS, is_uid

_PAGE: Final = 500
_TIMEOUT: Final = 30.0
_ANY_SYNTAX: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'

# What is raised by answers that never come, refuse, or are no DICOM JSON.
TROUBLE: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class Study(NamedTuple):
    """A study, and how many instances it has; -1 where the source does not say."""

    uid: str
    instances: int


class Instance(NamedTuple):
    """A radiograph, and where its file is."""

    uid: str
    sop_class: str
    path: str


class Source:
    """Asks one source; all methods raise one of `TROUBLE` where that fails."""

    def __init__(self, source: Poll) -> None:
        self.url = source.url.rstrip("/")
        self._modalities = source.modalities
        self._client = httpx.Client(headers=source.headers, timeout=_TIMEOUT)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def studies(self, since: str) -> set[Study]:
        """Give all studies of a date (YYYYMMDD) on that may have radiographs.

        Modalities are compared here: asked for ModalitiesInStudy, Orthanc 1.10 gives its first page
        alone, and others refuse.
        """
        return {
            Study(uid, int(count) if (count := _value(found, "00201208", "")).isdecimal() else -1)
            for found in self._pages("/studies", {"StudyDate": f"{since}-"})
            if is_uid(uid := _value(found, "0020000D", "")) and self._may_have(found)
        }

    def _may_have(self, study: dict[str, Any]) -> bool:
        modalities = study.get("00080061", {}).get("Value")
        return not modalities or not set(self._modalities).isdisjoint(modalities)

    def radiographs(self, study: str) -> list[Instance]:
        """Give each radiograph of a study."""
        instances = []
        for modality in self._modalities:
            for found in self._pages(f"/studies/{study}/instances", {"Modality": modality}):
                series, uid = _value(found, "0020000E"), _value(found, "00080018")
                sop_class = _value(found, "00080016")
                if sop_class in RADIOGRAPHS and is_uid(uid) and is_uid(series):
                    path = f"/studies/{study}/series/{series}/instances/{uid}"
                    instances.append(Instance(uid, sop_class, path))
        return instances

    def fetched(self, instance: Instance) -> bytes:
        """Give the DICOM file of an instance."""
        answer = self._client.get(self.url + instance.path, headers={"Accept": _ANY_SYNTAX})
        answer.raise_for_status()
        return _part(answer)

    def _pages(self, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Give all matches of a search, page by page.

        The source may give fewer a page than we ask for (PS3.18 section 8.3.4), so only a page that
        is empty, or the same again, is the last.
        """
        offset, last = 0, None
        while True:
            answer = self._client.get(
                self.url + path,
                params=query | {"limit": str(_PAGE), "offset": str(offset)},
                headers={"Accept": "application/dicom+json"},
            )
            answer.raise_for_status()
            found = [] if answer.status_code == 204 else answer.json()
            if not found or found == last:
                return
            yield from found
            offset, last = offset + len(found), found


def said(error: Exception) -> str:
    """Say what failed; an answer that is no DICOM JSON is not quoted, it may name a patient."""
    return str(error) if isinstance(error, httpx.HTTPError) else type(error).__name__


def _value(found: dict[str, Any], tag: str, default: str | None = None) -> str:
    if default is not None and not found.get(tag, {}).get("Value"):
        return default
    return str(found[tag]["Value"][0])


def _part(answer: httpx.Response) -> bytes:
    """Take the one DICOM file out of a multipart answer."""
    header = Message()
    header["Content-Type"] = answer.headers["content-type"]
    boundary = header.get_boundary()
    if boundary is None:
        raise ValueError(f"the source sent {header.get_content_type()}, no multipart answer")
    _, *parts, _ = answer.content.split(b"--" + boundary.encode())
    if len(parts) != 1:
        raise ValueError(f"the source sent {len(parts)} parts for one instance")
    content = parts[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
    if content[128:132] != b"DICM":
        raise ValueError("what the source sent is no DICOM file")
    return content
