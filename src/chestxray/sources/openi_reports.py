"""The XML reports of Open-i, one per study; those of strangers may be hostile.

Nothing outside a report is read and nothing in it is expanded: one that declares a document type or
an entity, which those of Open-i do not, is refused, and so is one that is too long. An archive is
read as a stream, without unpacking it, up to a number of reports and of unpacked bytes; the bytes
between two of its entries are limited too, since tarfile keeps headers in memory.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

# Only texts that declare nothing are parsed, see `parsed`.
from xml.etree import ElementTree as ET  # nosec B405

from chestxray.errors import SourceError
from chestxray.sources.files import scan

FOLDER: Final = "ecgen-radiology"
_ROOT: Final = b"<eCitation"
_HEAD: Final = 512  # bytes in which a report shows what it is
_LONGEST: Final = 262_144  # bytes of a report; those of Open-i have at most 8,967
_MOST: Final = 100_000  # reports; Open-i has 3,955
_MOST_BYTES: Final = 2**30  # of an archive, unpacked; that of Open-i has 23 MB
_HEADERS: Final = 65_536  # bytes of the headers of an entry; mostly there are 512
_FIRST: Final = 5  # entries of an archive in which it shows what it is
_DAMAGED: Final = (  # what tarfile raises for what is no archive
    OSError, EOFError, tarfile.TarError, zlib.error, ValueError, IndexError, RecursionError,
)  # fmt: skip
_PACKED: Final = (".tgz", ".tar.gz")


class Report(NamedTuple):
    """What a report says.

    Attributes:
        study: such as `CXR1`; there is one for each patient.
        terms: MeSH terms by human indexers (`major`), such as `Opacity/lung/base`.
        images: such as `CXR1_1_IM-0001-3001`.
    """

    study: str
    terms: tuple[str, ...]
    images: tuple[str, ...]


def has_reports(tree: Path) -> bool:
    """Tell whether a folder holds reports, or a file is an archive of them."""
    if tree.is_file():
        try:
            return _is_packed(tree) and next(_members(tree, _FIRST), None) is not None
        except SourceError:
            return False
    return tree.is_dir() and any(map(_looks_right, scan(tree).xml[:3]))


def read_reports(tree: Path) -> tuple[list[Report], list[str]]:
    """Read all reports of a folder, or of an archive alone.

    Returns:
        The reports, and the names of those that cannot be read.

    Raises:
        SourceError: the archive is damaged, or there are too many reports.
    """
    reports, bad = [], []
    for place, (name, data) in enumerate(_members(tree) if tree.is_file() else _files(tree)):
        if place >= _MOST:
            raise SourceError(f"{tree} has more than {_MOST} reports, the most that are read")
        report = parsed(data)
        if report is None:
            bad.append(name)
        else:
            reports.append(report)
    return reports, bad


def parsed(data: bytes) -> Report | None:
    """Read a report; None where it is not one, or declares what is to be expanded."""
    if len(data) > _LONGEST:
        return None
    try:
        text = data.decode("utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            return None
        # Nothing is declared, so nothing expands.
        root = ET.fromstring(text)  # noqa: S314  # nosec B314
    except (UnicodeDecodeError, ET.ParseError, ValueError):
        return None
    study = root.find("uId")
    if root.tag != "eCitation" or study is None or not study.get("id"):
        return None
    return Report(
        study.get("id", ""),
        tuple((node.text or "").strip() for node in root.findall("MeSH/major")),
        tuple(node.get("id", "") for node in root.findall("parentImage") if node.get("id")),
    )


def _files(tree: Path) -> Iterator[tuple[str, bytes]]:
    for path in scan(tree).xml:
        if _looks_right(path):
            with path.open("rb") as file:
                yield path.name, file.read(_LONGEST + 1)


def _looks_right(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.parent.name == FOLDER or _ROOT in file.read(_HEAD)
    except OSError:
        return False


def _is_packed(tree: Path) -> bool:
    return tree.name.casefold().endswith(_PACKED)


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of an archive, as far as its entries that are known allow."""

    def __init__(self, file: gzip.GzipFile, tree: Path) -> None:
        self._file, self._tree, self._read = file, tree, 0
        self.allow(0)

    def allow(self, end: int) -> None:
        """Allow to read the entries up to a byte, and the headers that follow them."""
        if end > _MOST_BYTES:
            raise SourceError(
                f"{self._tree} has more than {_MOST_BYTES // 2**20} MB unpacked, the most that is "
                f"read"
            )
        self._end = end + _HEADERS

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._read
        if left <= 0:
            raise tarfile.ReadError(f"the headers of an entry have more than {_HEADERS} bytes")
        data = self._file.read(left if size < 0 else min(size, left))
        self._read += len(data)
        return data


def _members(tree: Path, most: int = 2 * _MOST) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the reports among the first entries of an archive."""
    try:
        with (
            gzip.open(tree) as packed,
            _Unpacked(packed, tree) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as archive,
        ):
            for _ in range(most):
                member = archive.next()
                if member is None:
                    return
                unpacked.allow(archive.offset)
                name = Path(member.name)
                if member.isfile() and name.parent.name == FOLDER and name.suffix == ".xml":
                    file = archive.extractfile(member)
                    if file is not None:
                        yield name.name, file.read(_LONGEST + 1)
                archive.pax_headers = {}  # or both would keep the headers of all entries
                archive.members = []  # type: ignore[attr-defined]
    except _DAMAGED as error:
        raise SourceError(f"{tree} is damaged ({error}): download it again") from error
