"""Attributes of the image that was read, as far as its results need them.

Patient and study are copied value for value, including values that break a rule of the Standard: a
result must be filed with its image, and the archive knows the patient by just these values. Text is
decoded by the image's own character set; results are written in UTF-8, which encodes every name.
Only these few elements, each of limited length, are given to pydicom: it makes an object of each
element that it sees, so that items of 4 MB would take it 14 s and 630 MB.

Dates and times are in the image's time zone where it states its offset from UTC, which holds for
all times of an object (PS3.3 C.12.1.1.6), and in this machine's otherwise.

References: PS3.3 C.7.1.1 (Patient), C.7.2.1 (General Study).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, tzinfo
from io import BytesIO
from typing import Final

from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from chestxray.dicom_elements import MalformedError, parse
from chestxray.errors import ImageError

CHARACTERS: Final = "ISO_IR 192"

PICTURE_SIDE: Final = 1024  # pixels; that of many files, which are then shown pixel by pixel
"""Side of the square image that a secondary capture is drawn from."""

LOSSY: Final = (
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)

# Type 2: in every object, empty where the image has no value.
_ALWAYS: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# Types 1C and 3: issuers, species, whether the image was de-identified (the result is then as
# well), and the offset of all times.
_OPTIONAL: Final = (
    "IssuerOfPatientID",
    "PatientSpeciesDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
)
_SEQUENCES: Final = (
    "IssuerOfAccessionNumberSequence",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientSpeciesCodeSequence",
    "DeidentificationMethodCodeSequence",
)
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_NEEDED: Final = (*_UIDS, "Rows", "Columns")
_IMAGE: Final = ("BodyPartExamined", "Laterality", "PatientOrientation", *LOSSY)
# Bytes of an element; the longest text that is copied (LT, PS3.5 6.2) has 10,240 characters.
_LONGEST: Final = 2**15
_CHARACTER_SET: Final = "SpecificCharacterSet"
_TEXTS: Final = (*_ALWAYS, *_OPTIONAL, *_NEEDED, *_IMAGE)

# Lossy transfer syntaxes; a file in one of them may lack the attribute (PS3.3 C.7.6.1.1.5.1).
_LOSSY_SYNTAXES: Final = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}

# Decimal strings; other values, such as 10:1, cannot be written into a result.
_RATIOS: Final = re.compile(r" *\d+(\.\d*)? *(\\ *\d+(\.\d*)? *)*")


@dataclass(frozen=True)
class SourceImage:
    """Attributes of the image that was read, as far as results need them.

    Attributes:
        sha256: of the file, hexadecimal.
        values: keyword → the text of its value, decoded; what is absent or empty has no entry.
        sequences: keyword → the items of a sequence, in UTF-8.
        scope: what its results are limited to, such as some of the model's findings.
    """

    sha256: str
    values: dict[str, str]
    sequences: dict[str, list[Dataset]]
    scope: tuple[str, ...] = ()

    @classmethod
    def read(cls, data: bytes, digest: str) -> SourceImage:
        """Read the attributes of a DICOM file; no others are parsed.

        Args:
            data: the file.
            digest: its SHA-256, hexadecimal.

        Raises:
            ImageError: it has no UIDs to refer to, or no size; or an attribute is too long.
        """
        try:
            syntax, elements = parse(data)
            wanted = elements.encoded((_CHARACTER_SET, *_TEXTS, *_SEQUENCES), _LONGEST)
        except MalformedError as error:
            raise ImageError("<bytes>", f"results cannot refer to it: {error}") from error
        with config.disable_value_validation():
            header = read_dataset(BytesIO(wanted), elements.implicit, elements.order == "<")
            values = {keyword: _text(header, keyword) for keyword in _TEXTS}
            sequences = {keyword: _items(header, keyword) for keyword in _SEQUENCES}
        missing = [keyword for keyword in _NEEDED if not values[keyword]]
        if missing:
            names = ", ".join(missing)
            raise ImageError("<bytes>", f"it has no {names}: results cannot refer to it")
        method = _LOSSY_SYNTAXES.get(UID(syntax, config.IGNORE))
        if method and values["LossyImageCompression"] != "01":
            values |= {"LossyImageCompression": "01", "LossyImageCompressionMethod": method}
        if not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", values["TimezoneOffsetFromUTC"]):
            del values["TimezoneOffsetFromUTC"]
        if not _RATIOS.fullmatch(values["LossyImageCompressionRatio"]):
            del values["LossyImageCompressionRatio"]
        known = {keyword: text for keyword, text in values.items() if text}
        filled = {keyword: items for keyword, items in sequences.items() if items}
        return cls(digest, known, filled)

    @property
    def seed(self) -> tuple[str, ...]:
        """What the UIDs of its results are derived from: an image may be replaced under its UID."""
        return self.uid, self.sha256, *self.scope

    @property
    def uid(self) -> str:
        """SOP instance UID."""
        return self.values["SOPInstanceUID"]

    @property
    def sop_class(self) -> str:
        """SOP class UID."""
        return self.values["SOPClassUID"]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.values["Columns"]), int(self.values["Rows"])

    @property
    def timezone(self) -> tzinfo | None:
        """The offset from UTC of all its times; None where it is not stated."""
        offset = self.values.get("TimezoneOffsetFromUTC")
        return datetime.strptime(offset, "%z").tzinfo if offset else None

    def copy_to(self, result: Dataset) -> None:
        """Copy patient and study into a result."""
        result.SpecificCharacterSet = CHARACTERS
        result.StudyInstanceUID = self.values["StudyInstanceUID"]
        for keyword in _ALWAYS:
            _put(result, keyword, self.values.get(keyword, ""))
        self.copy_known(result, *_OPTIONAL)
        for keyword, items in self.sequences.items():
            setattr(result, keyword, items)

    def copy_known(self, result: Dataset, *keywords: str) -> None:
        """Copy those attributes into a result that the image has."""
        for keyword in keywords:
            if keyword in self.values:
                _put(result, keyword, self.values[keyword])


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _items(header: Dataset, keyword: str) -> list[Dataset]:
    """Give the items of a sequence, decoded by the image's character set."""
    return [Dataset.from_json(item.to_json_dict()) for item in header.get(keyword) or []]


def _put(result: Dataset, keyword: str, text: str) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    result.add(DataElement(tag, dictionary_VR(tag), text, validation_mode=config.IGNORE))
