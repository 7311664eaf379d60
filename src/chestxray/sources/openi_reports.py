"""The XML reports of Open-i, one per study; those of strangers may be hostile.

Nothing outside a report is read and nothing in it is expanded: one that declares a document type or
an entity, which those of Open-i do not, is refused, and so is one that is too long. An archive is
read as a stream, without unpacking it, up to a number of reports.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET  # nosec B405 - see `parsed`

from chestxray.errors import SourceError
from chestxray.sources.files import scan

FOLDER: Final = "ecgen-radiology"
_ROOT: Final = b"<eCitation"
_HEAD: Final = 512  # bytes in which a report shows what it is
_LONGEST: Final = 262_144  # bytes of a report; those of Open-i have at most 8,967
_MOST: Final = 100_000  # reports; Open-i has 3,955
_MOST_BYTES: Final = 2**30  # of an archive, unpacked; that of Open-i has 23 MB
_FIRST: Final = 5  # entries of an archive in which it shows what it is
_PACKED: Final = (".tgz", ".tar.gz")


class Report(NamedTuple):
    """What a report says.

    Attributes:
        study: such as `CXR1`; there is one for each patient.
        terms: MeSH terms by human indexers (`major`), such as `Opacity/lung/base`.
        machine_terms: words that a program found (`automatic`).
        images: such as `CXR1_1_IM-0001-3001`.
    """

    study: str
    terms: tuple[str, ...]
    machine_terms: tuple[str, ...]
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
        tuple((node.text or "").strip() for node in root.findall("MeSH/automatic")),
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


def _members(tree: Path, most: int = 2 * _MOST) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the reports among the first entries of an archive."""
    size = 0
    try:
        with tarfile.open(tree, "r|gz") as archive:
            for place, member in enumerate(archive):
                size += member.size
                if place >= most:
                    return
                if size > _MOST_BYTES:
                    raise SourceError(
                        f"{tree} has more than {_MOST_BYTES // 2**20} MB unpacked, the most that "
                        f"is read"
                    )
                name = Path(member.name)
                if member.isfile() and name.parent.name == FOLDER and name.suffix == ".xml":
                    file = archive.extractfile(member)
                    if file is not None:
                        yield name.name, file.read(_LONGEST + 1)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise SourceError(f"{tree} is damaged ({error}): download it again") from error
