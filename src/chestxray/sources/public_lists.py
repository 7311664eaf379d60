"""Which radiographs are in the published lists that public models were trained on.

`public_lists.json` holds no names. All lists so far are of NIH ChestX-ray14 and hold every image of
each of their patients, so that the numbers of these patients say exactly which images are in them:
one bit for each of 30,805 patients. An image is recognised by its file name, `PPPPPPPP_NNN.png`;
folders before it and its suffix do not count. In a set whose file names tell nothing, but whose
patients are known by their numbers in the data set, it is recognised by its patient.

A list is known by the SHA-256 over its image names (`seen_images.list_sha256`), which anyone can
compute from the published file and a bundle's card carries. `entry_of` writes what the record says
of a list, and refuses one that does not hold whole patients.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chestxray.errors import SourceError

_FILE: Final = "public_lists.json"
_NAME: Final = re.compile(r"(?:.*/)?([0-9]{8})_[0-9]{3}(?:\.\w+)?")
_NUMBER: Final = re.compile(r"(?:.*/)?([0-9]{8})")
_LAST: Final = 30_805  # the highest number of a patient of ChestX-ray14; the first is 1


@dataclass(frozen=True)
class PublicList:
    """A published list of the images that models were trained on, or chosen by.

    Attributes:
        name: short and unique.
        title: for people.
        set: name of the data set in `overlaps.json`.
        images, patients: how many it holds.
        official_test: how many of the images are in the data set's official test part.
        images_sha256: SHA-256 over the sorted image names, each followed by a newline.
        url, commit, file: where the list is; empty where it is not one file.
        fact: how this is known.
        bits: of the patients, see `entry_of`.
    """

    name: str
    title: str
    set: str
    images: int
    patients: int
    official_test: int
    images_sha256: str
    url: str
    commit: str
    file: str
    fact: str
    bits: str

    def holds(self, images: Iterable[str]) -> npt.NDArray[np.float64]:
        """Tell which images are in the list.

        Args:
            images: n file names, with any folders before them.

        Returns:
            float64 [n]: 1 in the list, 0 not in it, NaN a name that no image of the data set has.
        """
        return self._of(_patient(name) for name in images)

    def holds_patients(self, patients: Iterable[str]) -> npt.NDArray[np.float64]:
        """Tell which patients are in the list, with all of their images.

        Args:
            patients: n numbers as the data set writes them, with any folders before them.

        Returns:
            float64 [n]: 1 in the list, 0 not in it, NaN a name that no patient of the data set has.
        """
        return self._of(_number(_NUMBER.fullmatch(name)) for name in patients)

    def _of(self, numbers: Iterable[int]) -> npt.NDArray[np.float64]:
        listed = np.concatenate([[np.nan], _patients(self.bits)])
        return np.asarray(listed[list(numbers)], dtype=np.float64)


@cache
def public_lists() -> tuple[PublicList, ...]:
    """Give all lists of the record."""
    text = (files("chestxray.sources") / _FILE).read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = json.loads(text)
    return tuple(PublicList(**each) for each in entries)


@cache
def by_name(name: str) -> PublicList:
    """Give a list by its name."""
    return next(each for each in public_lists() if each.name == name)


@cache
def by_sha256(images_sha256: str) -> PublicList | None:
    """Give the list of exactly these images; None where it is not in the record."""
    found = (each for each in public_lists() if each.images_sha256 == images_sha256)
    return next(found, None)


def official_test(of: str) -> int:
    """Give the number of images in the official test part of a data set, by its name."""
    return max(each.official_test for each in public_lists() if each.set == of)


def entry_of(
    images: Iterable[str], everything: Sequence[str], official_test: Iterable[str]
) -> dict[str, Any]:
    """Write what the record says of a list of images of ChestX-ray14.

    Args:
        images: file names in the list.
        everything: all file names of the data set.
        official_test: file names of its official test part.

    Returns:
        `images`, `patients`, `official_test`, `images_sha256` and `bits` of `PublicList`. The bits
        are those of the patients 1 to 30,805, lowest first, compressed by zlib, in base64.

    Raises:
        SourceError: a name that is not of the data set, or a patient only some of whose images are
            in the list, which bits of patients cannot say.
    """
    listed = frozenset(images)
    if strange := sorted(listed.difference(everything)):
        raise SourceError(
            f"the list names {strange[0]}, which is no image of ChestX-ray14: give file names as "
            f"in its table"
        )
    patients = np.zeros(_LAST, dtype=np.uint8)
    patients[[_patient(name) - 1 for name in listed]] = 1
    whole = {name for name in everything if patients[_patient(name) - 1]}
    if torn := sorted(whole - listed):
        raise SourceError(
            f"the list lacks {len(torn)} images of its patients, such as {torn[0]}: only a list of "
            f"whole patients can be recorded"
        )
    bits = np.packbits(patients, bitorder="little").tobytes()
    text = "".join(f"{name}\n" for name in sorted(listed))
    return {
        "images": len(listed),
        "patients": int(patients.sum()),
        "official_test": len(listed.intersection(official_test)),
        "images_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "bits": base64.b64encode(zlib.compress(bits, 9)).decode("ascii"),
    }


def _patient(name: str) -> int:
    """Give the number of the patient in a file name of ChestX-ray14; 0 for any other name."""
    return _number(_NAME.fullmatch(name))


def _number(found: re.Match[str] | None) -> int:
    number = int(found[1]) if found else 0
    return number if number <= _LAST else 0


@cache
def _patients(bits: str) -> npt.NDArray[np.uint8]:
    """Give 1 or 0 for each of the patients 1 to 30,805."""
    packed = np.frombuffer(zlib.decompress(base64.b64decode(bits)), dtype=np.uint8)
    return np.unpackbits(packed, count=_LAST, bitorder="little")
