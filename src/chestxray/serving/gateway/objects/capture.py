"""The picture as a DICOM object: Secondary Capture, RGB, uncompressed.

References: PS3.3 A.8.1 (Secondary Capture Image IOD), C.7.6.1 (General Image), C.7.6.3 (Image
Pixel), C.8.6.1 (SC Equipment).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from chestxray import __version__
from chestxray.serving.gateway.objects import codes
from chestxray.serving.gateway.objects.identity import MAKER, NOTE, Model
from chestxray.serving.gateway.objects.instance import instance
from chestxray.serving.gateway.objects.source import LOSSY, Source


def capture(
    source: Source, model: Model, drawn: npt.NDArray[np.uint8], *, refused: bool
) -> Dataset:
    """Wrap a picture.

    Args:
        source: the image that it shows.
        model: that read it.
        drawn: RGB uint8 [h, w, 3].
        refused: whether the picture tells of a refusal; then it may show no chest.
    """
    result = instance("sc", source, model)
    _part(result, source, refused=refused)
    _image(result, source)
    _pixels(result, drawn)
    return result


def _part(result: Dataset, source: Source, *, refused: bool) -> None:
    """Say which part of the body it shows."""
    if not refused:
        result.BodyPartExamined = "CHEST"
        return
    result.Laterality = ""  # type 2C, but for what the Standard knows to be unpaired
    source.copy_known(result, "BodyPartExamined", "Laterality")
    if source.values.get("BodyPartExamined") == "CHEST":
        del result.Laterality


def _image(result: Dataset, source: Source) -> None:
    result.PatientOrientation = ""
    result.DateOfSecondaryCapture = result.ContentDate
    result.TimeOfSecondaryCapture = result.ContentTime
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.BurnedInAnnotation = "YES"
    result.ConversionType = "WSD"
    result.SecondaryCaptureDeviceManufacturer = MAKER
    result.SecondaryCaptureDeviceManufacturerModelName = result.ManufacturerModelName
    result.SecondaryCaptureDeviceSoftwareVersions = __version__
    result.DerivationDescription = f"Reduced to 8 bits, heatmaps and text drawn in. {NOTE}"
    result.ImageComments = NOTE
    result.SourceImageSequence = [_reference(source)]
    source.copy_known(result, *LOSSY)


def _reference(source: Source) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class
    reference.ReferencedSOPInstanceUID = source.uid
    reference.SpatialLocationsPreserved = "NO"
    reference.PurposeOfReferenceCodeSequence = [codes.dataset(codes.SOURCE_IMAGE)]
    return reference


def _pixels(result: Dataset, drawn: npt.NDArray[np.uint8]) -> None:
    result.Rows, result.Columns, result.SamplesPerPixel = drawn.shape
    result.PhotometricInterpretation = "RGB"
    result.PlanarConfiguration = 0
    result.BitsAllocated = result.BitsStored = 8
    result.HighBit = 7
    result.PixelRepresentation = 0
    result.PixelData = drawn.tobytes()
    result["PixelData"].VR = "OB"
