"""The segmentation: where the evidence for each called finding lies, in the image's own pixels.

A binary segment of a finding is what the first contour of its heatmap encloses, as the picture and
the viewer draw it: heat of at least 0.5 on the finding's own scale. It shows where the model's
evidence is, and does not outline the finding. Heat is no probability, so no segment is FRACTIONAL.
A called finding whose heatmap points to no place, or stays below the contour, has no segment. Of a
forced reading, the labels and all descriptions begin with the refusal, and no region of the body is
claimed.

Frames are bit-packed one after the other (PS3.5 8.1.1), a few hundred rows at a time: the largest
image that is read has 80 million pixels.

References: PS3.3 A.51 (Segmentation IOD), C.8.20.2 (Segmentation Image), C.7.6.16 (Multi-frame
Functional Groups), C.7.6.17 (Multi-frame Dimension), 10.16 (Algorithm Identification). The image
has no frame of reference, so frames are placed by the image that they are derived from (table
A.51-2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.tag import Tag

from chestxray.findings import label
from chestxray.reading.evidence import no_place
from chestxray.reading.overlay import LEVELS, outlined
from chestxray.reading.reader import Reading
from chestxray.serving.result_objects import codes
from chestxray.serving.result_objects.instance import (
    FORCED,
    MAKER,
    NOTE,
    Model,
    instance,
    part_of_body,
    reference,
    refusals,
)
from chestxray.serving.source_image import LOSSY, SourceImage
from chestxray.version import __version__

_DESCRIPTION: Final = "Evidence for the called findings. It does not outline them."
_SEGMENT_NUMBER: Final = Tag("ReferencedSegmentNumber")
_SEGMENT_GROUP: Final = Tag("SegmentIdentificationSequence")
_COLOURS: Final = ("#ffb000", "#648fff", "#dc267f", "#785ef0", "#fe6100", "#2dc7a4")

_Rows = npt.NDArray[np.bool_]


def segmentation(
    source: SourceImage, model: Model, reading: Reading, thresholds: Mapping[str, float | None]
) -> Dataset | None:
    """Make the segmentation of a reading; None where no called finding has a segment.

    Args:
        source: the image.
        model: the model that read it.
        reading: the reading.
        thresholds: finding → probability from which it is called; None without a threshold.
    """
    found = [
        finding
        for finding, call in reading.calls.items()
        if call and _has_segment(reading, finding, source)
    ]
    if not found:
        return None
    result = instance("seg", source, model, forced=reading.forced)
    if reading.forced:
        source.copy_known(result, "BodyPartExamined")  # the series has no laterality of its own
    else:
        part_of_body(result, source, refused=False)
    _image(result, source)
    result.ContentDescription = FORCED if reading.forced else _DESCRIPTION
    result.ImageComments = " ".join((*refusals(reading), NOTE))
    _dimensions(result, source, model)
    result.SegmentSequence = [
        _segment(number, finding, source, model, reading, thresholds[finding])
        for number, finding in enumerate(found, 1)
    ]
    result.SharedFunctionalGroupsSequence = [Dataset()]
    result.PerFrameFunctionalGroupsSequence = [
        _frame(number, source) for number in range(1, len(found) + 1)
    ]
    result.NumberOfFrames = len(found)
    result.PixelData = _packed(chain.from_iterable(_rows(reading, f, source) for f in found))
    result["PixelData"].VR = "OB"
    return result


def most_bytes(source: SourceImage, findings: int) -> int:
    """Give the size of the pixels of a segmentation of so many findings."""
    width, height = source.size
    return -(-width * height * findings // 8)


def _has_segment(reading: Reading, finding: str, source: SourceImage) -> bool:
    return no_place(reading.heatmaps[finding]) is None and any(
        rows.any() for rows in _rows(reading, finding, source)
    )


def _rows(reading: Reading, finding: str, source: SourceImage) -> Iterator[_Rows]:
    return outlined(reading.heatmaps[finding], reading.placement, source.size)


def _packed(blocks: Iterable[_Rows]) -> bytes:
    """Pack bits, the first pixel in the lowest bit, without a gap between frames."""
    packed = bytearray()
    rest = np.empty(0, np.bool_)
    for block in blocks:
        bits = np.concatenate((rest, block.ravel()))
        whole = len(bits) // 8 * 8
        packed += np.packbits(bits[:whole], bitorder="little").tobytes()
        rest = bits[whole:]
    packed += np.packbits(rest, bitorder="little").tobytes()
    return bytes(packed) + b"\0" * (len(packed) % 2)


def _image(result: Dataset, source: SourceImage) -> None:
    result.ImageType = ["DERIVED", "PRIMARY"]
    result.PatientOrientation = ""
    source.copy_known(result, "PatientOrientation")
    result.BurnedInAnnotation = "NO"
    result.LossyImageCompression = "00"
    source.copy_known(result, *LOSSY)
    result.ContentLabel = "EVIDENCE"
    result.ContentCreatorName = ""
    result.SegmentationType = "BINARY"
    result.SegmentsOverlap = "YES"
    result.Columns, result.Rows = source.size
    result.SamplesPerPixel = 1
    result.PhotometricInterpretation = "MONOCHROME2"
    result.BitsAllocated = result.BitsStored = 1
    result.HighBit = 0
    result.PixelRepresentation = 0
    series = Dataset()
    series.SeriesInstanceUID = source.values["SeriesInstanceUID"]
    series.ReferencedInstanceSequence = [reference(source)]
    result.ReferencedSeriesSequence = [series]
    result.CodingSchemeIdentificationSequence = [codes.private_scheme()]


def _dimensions(result: Dataset, source: SourceImage, model: Model) -> None:
    """Order frames by their segment alone."""
    uid = model.uid("seg", *source.seed, "dimensions")
    organization, index = Dataset(), Dataset()
    organization.DimensionOrganizationUID = uid
    index.DimensionOrganizationUID = uid
    index.DimensionIndexPointer = _SEGMENT_NUMBER
    index.FunctionalGroupPointer = _SEGMENT_GROUP
    index.DimensionDescriptionLabel = "Segment"
    result.DimensionOrganizationSequence = [organization]
    result.DimensionIndexSequence = [index]


def _segment(
    number: int,
    finding: str,
    source: SourceImage,
    model: Model,
    reading: Reading,
    threshold: float | None,
) -> Dataset:
    segment, algorithm = Dataset(), Dataset()
    segment.SegmentNumber = number
    segment.SegmentLabel = f"{'Refused: ' if reading.forced else ''}{label(finding)}"[:64]
    told = f"{FORCED} " if reading.forced else ""
    segment.SegmentDescription = told + _description(reading.probabilities[finding], threshold)
    segment.SegmentAlgorithmType = "AUTOMATIC"
    segment.SegmentAlgorithmName = model.name[:64]
    segment.SegmentedPropertyCategoryCodeSequence = [codes.dataset(codes.category(finding))]
    segment.SegmentedPropertyTypeCodeSequence = [codes.dataset(codes.finding(finding))]
    if not reading.forced:
        segment.AnatomicRegionSequence = [codes.dataset(codes.THORAX)]
    segment.TrackingID = label(finding)[:64]
    segment.TrackingUID = model.uid("seg", *source.seed, finding)
    segment.RecommendedDisplayCIELabValue = _colour(number)
    algorithm.AlgorithmFamilyCodeSequence = [codes.dataset(codes.ARTIFICIAL_INTELLIGENCE)]
    algorithm.AlgorithmName = model.name[:64]
    algorithm.AlgorithmVersion = __version__
    algorithm.AlgorithmSource = MAKER
    algorithm.AlgorithmParameters = f"weights SHA-256 {model.weights}; trained on {model.data}"
    segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
    return segment


def _description(probability: float, threshold: float | None) -> str:
    limit = "" if threshold is None else f", called from {100 * threshold:.4g} %"
    return (
        f"Heat of at least {LEVELS[0]:g} on the finding's own scale. "
        f"Probability {100 * probability:.4g} %{limit}."
    )


def _colour(number: int) -> Sequence[int]:
    """Give a colour as CIELab in 16 bits (PS3.3 C.10.7.1.1)."""
    text = _COLOURS[(number - 1) % len(_COLOURS)]
    rgb = np.array([[[int(text[at : at + 2], 16) for at in (1, 3, 5)]]], np.float32) / 255
    light, a, b = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0, 0].tolist()
    return [round(light / 100 * 65535), round((a + 128) * 257), round((b + 128) * 257)]


def _frame(number: int, source: SourceImage) -> Dataset:
    """Describe the frame of a segment: it is derived from the image, pixel by pixel."""
    frame, content, segment = Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = [number]
    segment.ReferencedSegmentNumber = number
    image, derivation = reference(source), Dataset()
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [codes.dataset(codes.SOURCE_IMAGE)]
    derivation.SourceImageSequence = [image]
    derivation.DerivationCodeSequence = [codes.dataset(codes.SEGMENTATION)]
    frame.FrameContentSequence = [content]
    frame.SegmentIdentificationSequence = [segment]
    frame.DerivationImageSequence = [derivation]
    return frame
