"""Who made a result, and the UIDs that make the same result the same object.

A UID is a UUID of version 5 under 2.25 (PS3.5 annex B.2) over the model with all of its card, this
program's version, the image with all of its bytes, and the kind of result. So a worker that takes
up where another died makes objects that the archive knows already; another model or threshold, or
an image that was replaced under its UID, makes others.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.uid import UID

from chestxray import __version__
from chestxray.model.card import Card
from chestxray.reading.reader import Reader
from chestxray.serving.gateway.objects import codes

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


def _data(card: Card) -> str:
    trained = card.trained_on
    return f"{trained.source}, {trained.train_images} images of {trained.train_patients} patients"
