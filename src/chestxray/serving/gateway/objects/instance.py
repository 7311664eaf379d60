"""Who made a result, and the UIDs that make the same result the same object.

A UID is a UUID of version 5 under 2.25 (PS3.5 annex B.2) over the model with all of its card, this
program's version, the image with all of its bytes, and the kind of result. So a worker that takes
up where another died makes objects that the archive knows already; another model or threshold, or
an image that was replaced under its UID, makes others.

The image that was read: what results take over from it, as it stands there.

Patient and study are copied value for value, what breaks a rule of the Standard included: a result
must lie beside its image, and the archive knows the patient by just these values. Text is decoded
by the image's own character set; results are written in UTF-8, which holds every name.

References: PS3.3 C.7.1.1 (Patient), C.7.2.1 (General Study), C.12.1.1.2 (character sets).

What every result object has: patient, study, a series of its own, equipment, time.

Dates and times are those of the image's clock where it tells its offset from UTC, which holds for
all times of an object (PS3.3 C.12.1.1.6), and of this machine's otherwise.

References: PS3.3 C.7.3.1 (General Series), C.12.1 (SOP Common).
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, tzinfo
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    SecondaryCaptureImageStorage,
)

from chestxray.errors import ImageError
from chestxray.model.model_card import ModelCard
from chestxray.reading.reader import Reader
from chestxray.serving.gateway.objects import codes
from chestxray.version import __version__

MAKER: Final = "chestxray"
NOTE: Final = "For research use. Not a medical device."
UNVERIFIED: Final = "Made by a machine, not verified by a physician."
NOTHING_SAID: Final = "No finding is reported as present or absent."

_NAMESPACE: Final = uuid.UUID("6a3f0c1e-53a5-5d0f-9a77-2f6b4f0f7c11")


@dataclass(frozen=True)
class Model:
    """What read the image.

    Attributes:
        name: short and exact, of backbone and weights.
        weights: SHA-256 of the weights, hexadecimal.
        trained_by: version of this package that trained it.
        data: what it was trained on, for people.
    """

    name: str
    weights: str
    trained_by: str
    data: str
    _card: str

    @classmethod
    def of(cls, reader: Reader) -> Model:
        """Tell of the model that a reader has."""
        card = reader.bundle.card
        return cls(
            name=reader.bundle.identity,
            weights=card.weights_sha256,
            trained_by=card.package_version,
            data=_data(card),
            _card=card.model_dump_json(),
        )

    def uid(self, *parts: str) -> UID:
        """Derive a UID for something that this model made; the same for the same parts."""
        seed = "\n".join((self._card, __version__, *parts))
        return UID(f"2.25.{uuid.uuid5(_NAMESPACE, seed).int}")

    @property
    def device(self) -> UID:
        """The UID of the model itself."""
        return self.uid("device")

    def sign(self, result: Dataset) -> None:
        """Put the model into a result as its equipment.

        It stands there twice: as what made the object (PS3.3 C.7.5.2), and as the algorithm among
        the contributing equipment (PS3.3 C.12.1), where IHE's AI Results profile looks for it.
        """
        self._describe(result)
        result.ContentQualification = "RESEARCH"
        algorithm = Dataset()
        self._describe(algorithm)
        algorithm.ContributionDescription = f"Read the image. Trained on {self.data}. {NOTE}"
        algorithm.PurposeOfReferenceCodeSequence = [codes.dataset(codes.EQUIPMENT)]
        result.ContributingEquipmentSequence = [algorithm]

    def _describe(self, equipment: Dataset) -> None:
        equipment.Manufacturer = MAKER
        equipment.ManufacturerModelName = self.name[:64]
        equipment.DeviceSerialNumber = self.weights
        equipment.DeviceUID = self.device
        equipment.SoftwareVersions = __version__


def _data(card: ModelCard) -> str:
    trained = card.trained_on
    return f"{trained.source}, {trained.train_images} images of {trained.train_patients} patients"


CHARACTERS: Final = "ISO_IR 192"
LOSSY: Final = (
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)

# Type 2: present in every object, empty where the image does not have them.
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
# Types 1C and 3: who gave the numbers, what the patient is if not a person, whether the image was
# de-identified (the result is then as well), and the offset of all its times.
_WHERE_KNOWN: Final = (
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
_IMAGE: Final = ("BodyPartExamined", "Laterality", *LOSSY)
_TEXTS: Final = (*_ALWAYS, *_WHERE_KNOWN, *_NEEDED, *_IMAGE)

# Syntaxes that always lose; a file in one of them may not say so (PS3.3 C.7.6.1.1.5.1).
_LOSES: Final = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}

# Decimal strings; others, such as 10:1, could not be written into a result.
_RATIOS: Final = re.compile(r" *\d+(\.\d*)? *(\\ *\d+(\.\d*)? *)*")


@dataclass(frozen=True)
class Source:
    """The header of an image, as far as results need it.

    Attributes:
        sha256: of the file, hexadecimal.
        values: keyword → the text of its value, decoded; what is absent or empty has no entry.
        sequences: keyword → the items of a sequence, in Unicode.
    """

    sha256: str
    values: dict[str, str]
    sequences: dict[str, list[Dataset]]

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read a DICOM file's header.

        Raises:
            ImageError: it has no UID to refer to, is in no study, or has no size.
        """
        content = path.read_bytes()
        wanted = [*_TEXTS, *_SEQUENCES]
        with config.disable_value_validation():
            header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=list(wanted))
            values = {keyword: _text(header, keyword) for keyword in _TEXTS}
            sequences = {keyword: _items(header, keyword) for keyword in _SEQUENCES}
        missing = [keyword for keyword in _NEEDED if not values[keyword]]
        if missing:
            raise ImageError(path, f"has no {', '.join(missing)}: results cannot refer to it")
        method = _LOSES.get(header.file_meta.get("TransferSyntaxUID"))
        if method and values["LossyImageCompression"] != "01":
            values |= {"LossyImageCompression": "01", "LossyImageCompressionMethod": method}
        if not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", values["TimezoneOffsetFromUTC"]):
            del values["TimezoneOffsetFromUTC"]
        if not _RATIOS.fullmatch(values["LossyImageCompressionRatio"]):
            del values["LossyImageCompressionRatio"]
        known = {keyword: text for keyword, text in values.items() if text}
        filled = {keyword: items for keyword, items in sequences.items() if items}
        return cls(sha256(content).hexdigest(), known, filled)

    @property
    def seed(self) -> tuple[str, str]:
        """What the UIDs of its results come from: an image may be replaced under its UID."""
        return self.uid, self.sha256

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
        """The offset from UTC that all its times have; None where it does not say."""
        offset = self.values.get("TimezoneOffsetFromUTC")
        return datetime.strptime(offset, "%z").tzinfo if offset else None

    def copy_to(self, result: Dataset) -> None:
        """Put patient and study into a result."""
        result.SpecificCharacterSet = CHARACTERS
        result.StudyInstanceUID = self.values["StudyInstanceUID"]
        for keyword in _ALWAYS:
            _put(result, keyword, self.values.get(keyword, ""))
        self.copy_known(result, *_WHERE_KNOWN)
        for keyword, items in self.sequences.items():
            setattr(result, keyword, items)

    def copy_known(self, result: Dataset, *keywords: str) -> None:
        """Put attributes into a result, those that the image has."""
        for keyword in keywords:
            if keyword in self.values:
                _put(result, keyword, self.values[keyword])


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _items(header: Dataset, keyword: str) -> list[Dataset]:
    """Give a sequence's items freed from the character set that they were written in."""
    return [Dataset.from_json(item.to_json_dict()) for item in header.get(keyword) or []]


def _put(result: Dataset, keyword: str, text: str) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    result.add(DataElement(tag, dictionary_VR(tag), text, validation_mode=config.IGNORE))


class _Kind(NamedTuple):
    sop_class: UID
    modality: str
    series: int
    description: str


_KINDS: Final = {
    "sr": _Kind(Comprehensive3DSRStorage, "SR", 9001, "chestxray findings, for research use"),
    "sc": _Kind(SecondaryCaptureImageStorage, "OT", 9002, "chestxray picture, for research use"),
    "regions": _Kind(Comprehensive3DSRStorage, "SR", 9003, "chestxray regions, for research use"),
}


def instance(kind: str, source: Source, model: Model) -> Dataset:
    """Begin a result object.

    Args:
        kind: `sr`, `sc` or `regions`.
        source: the image.
        model: that read it.
    """
    is_a = _KINDS[kind]
    now = datetime.now().astimezone(source.timezone)
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.SOPClassUID = is_a.sop_class
    result.SOPInstanceUID = model.uid(kind, *source.seed)
    result.InstanceNumber = 1
    result.InstanceCreationDate = result.ContentDate = now.strftime("%Y%m%d")
    result.InstanceCreationTime = result.ContentTime = now.strftime("%H%M%S.%f")
    result.Modality = is_a.modality
    result.SeriesInstanceUID = model.uid(kind, *source.seed, "series")
    result.SeriesNumber = is_a.series
    result.SeriesDescription = is_a.description
    source.copy_to(result)
    model.sign(result)
    return result
