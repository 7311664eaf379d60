"""What every result object has: patient, study, a series of its own, equipment, time.

Dates and times are those of the image's clock where it tells its offset from UTC, which holds for
all times of an object (PS3.3 C.12.1.1.6), and of this machine's otherwise.

References: PS3.3 C.7.3.1 (General Series), C.12.1 (SOP Common).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from chestxray.serving.gateway.objects.identity import Model
from chestxray.serving.gateway.objects.source import Source


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
