"""Secondary captures that are radiographs by their tags are received where that is allowed."""

from __future__ import annotations

import gc
import io
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

import chestxray
from chestxray.errors import ConfigError
from chestxray.serving import result_objects
from chestxray.serving.gateway import image_decoding, intake, statistics
from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.intake import Intake
from chestxray.serving.gateway.receiver import Receiver
from chestxray.serving.gateway.secondary_captures import (
    CaptureRule,
    NotARadiographError,
)
from chestxray.serving.gateway.sop_uids import transfer_syntax
from chestxray.serving.gateway.spool import BEGINNING, data_set_starts
from chestxray.serving.gateway.store import READ, Store
from dicom_files import written
from gateway_parts import config, radiograph, store

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s.*ocket:pytest.PytestUnraisableExceptionWarning"
)
TAKEN = CaptureRule(accepted=True)
BURNED_IN = CaptureRule(accepted=True, burned_in=True)
COLOUR = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}


@pytest.fixture(autouse=True)
def _collect_sockets():
    yield
    gc.collect()


def capture(**more: object) -> Dataset:
    """A radiograph that another program has written again, as public data sets hold them."""
    header = {
        "SOPClassUID": SecondaryCaptureImageStorage,
        "Modality": "CR",
        "ConversionType": "WSD",
        "PresentationIntentType": None,
        "BurnedInAnnotation": None,
    }
    image = radiograph(**{key: of for key, of in (header | more).items() if of is not None})
    for keyword in [key for key, of in (header | more).items() if of is None]:
        delattr(image, keyword)
    return image


def divided(file: bytes) -> tuple[bytes, bytes]:
    """The first bytes of a file's data set, and what precedes it."""
    start = data_set_starts(io.BytesIO(file))
    return file[start : start + BEGINNING], file[:start]


def modality(rule: CaptureRule, file: bytes) -> str:
    beginning, head = divided(file)
    return rule.modality(beginning, transfer_syntax(head))


@pytest.mark.parametrize(
    ("more", "rule", "why"),
    [
        ({}, CaptureRule(), "neither a radiograph nor a result"),
        ({"Modality": "OT"}, TAKEN, "its Modality is not CR or DX"),
        ({"Modality": None}, TAKEN, "its Modality is not CR or DX"),
        ({"stored": np.zeros((64, 64, 3), np.uint8), **COLOUR}, TAKEN, "it is in colour"),
        ({"NumberOfFrames": "2"}, TAKEN, "more than one frame"),
        ({"BurnedInAnnotation": "YES"}, TAKEN, "text is part of its pixels"),
        ({"Manufacturer": "ChestXray"}, BURNED_IN, "a result of a gateway of this package"),
        ({"SourceImageSequence": [Dataset()]}, TAKEN, r"another image \(SourceImageSequence\)"),
        ({"DerivationDescription": "heat map"}, TAKEN, r"another image \(DerivationDescription\)"),
        ({"ContentQualification": "RESEARCH"}, TAKEN, r"ContentQualification RESEARCH"),
        (
            {"PatientComments": "x" * 60000, "ImageComments": "y" * 9000},
            TAKEN,
            "longer than 64 KiB",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The value length")
def test_what_is_no_radiograph_by_its_tags_is_refused_with_the_tag(
    more: dict, rule: CaptureRule, why: str
) -> None:
    with pytest.raises(NotARadiographError, match=why):
        modality(rule, written(capture(**more)))


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_grey_result_of_another_product_is_refused_however_its_sequence_is_encoded(
    undefined: bool, syntax: str
) -> None:
    source = Dataset()
    source.ReferencedSOPClassUID = ComputedRadiographyImageStorage
    source.ReferencedSOPInstanceUID = "1.2.3"
    result = capture(SourceImageSequence=[source], Manufacturer="Other", Modality="DX")
    result["SourceImageSequence"].is_undefined_length = undefined
    result.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(NotARadiographError, match="SourceImageSequence"):
        modality(BURNED_IN, written(result))


def test_a_secondary_capture_of_one_grey_image_of_cr_or_dx_is_a_radiograph() -> None:
    assert modality(TAKEN, written(capture())) == "CR"
    assert modality(TAKEN, written(capture(Modality="DX", BurnedInAnnotation="NO"))) == "DX"
    assert modality(BURNED_IN, written(capture(BurnedInAnnotation="YES"))) == "CR"
    inverse = capture(PhotometricInterpretation="MONOCHROME1", NumberOfFrames="1")
    assert modality(TAKEN, written(inverse)) == "CR"
    assert modality(TAKEN, written(capture(DerivationDescription=""))) == "CR"
    assert modality(TAKEN, written(capture(ContentQualification="PRODUCT"))) == "CR"
    deflated = capture()
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert modality(TAKEN, written(deflated)) == "CR"


def test_a_real_public_file_of_the_class_is_a_radiograph(real: Path) -> None:
    files = [path for path in (real / "dicom").glob("*.dcm") if _is_capture(path)]
    assert files, "RSNA's file has this class"
    for path in files:
        assert modality(TAKEN, path.read_bytes()) in ("CR", "DX")


def _is_capture(path: Path) -> bool:
    return dcmread(path, stop_before_pixels=True).SOPClassUID == SecondaryCaptureImageStorage


class Node:
    """A receiver of this process, and its store."""

    def __init__(self, settings: Config) -> None:
        self.port = settings.receive.port
        self.store = Store(settings.state)
        self.receiver = Receiver(settings.receive, Intake(Store(settings.state), settings.storage))
        self.receiver.start()

    def queued(self) -> int:
        return statistics.counts(self.store.db)[READ]["queued"]


@pytest.fixture
def node(tmp_path: Path):
    made = Node(config(tmp_path, secondary_captures=True))
    yield made
    made.receiver.stop()
    made.store.close()


def test_the_receiver_takes_radiographs_of_the_class_and_nothing_else_of_it(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    image = capture()
    assert store(image, node.port) == 0x0000
    assert store(image, node.port) == 0x0000, "the same again"
    assert node.queued() == 1
    assert node.store.image(image.SOPInstanceUID).modality == "CR"
    assert store(capture(BurnedInAnnotation="YES"), node.port) == 0x0122
    assert store(capture(Modality="OT"), node.port) == 0x0122
    assert "its Modality is not CR or DX" in caplog.text
    assert len(list(node.store.images.iterdir())) == 1, "nothing of the others stays"


def test_a_capture_whose_row_was_lost_is_queued_again_with_its_modality(node: Node) -> None:
    image = capture(Modality="DX")
    assert store(image, node.port) == 0x0000
    path = node.store.image_file(image.SOPInstanceUID)
    assert intake._recovered(path).modality == "DX"


@pytest.mark.parametrize("burned_in", [False, True])
def test_a_result_of_another_gateway_of_this_package_is_never_a_radiograph(
    run: Path, burned_in: bool
) -> None:
    reader = chestxray.load(run / "bundle", "torch")
    decoded = image_decoding.decode(reader.size, written(capture()), "ab" * 32)
    reading = reader.read(decoded.judged, force=True)
    made = result_objects.make(decoded.source, decoded.picture, reading, reader, ["sc"])
    (result,) = [dcmread(io.BytesIO(one.content)) for one in made]
    for said in ("OT", "CR"):  # and neither if its modality is altered on the way
        result.Modality = said
        with pytest.raises(NotARadiographError):
            modality(CaptureRule(accepted=True, burned_in=burned_in), written(result))


def test_each_reading_of_a_secondary_capture_says_so(run: Path) -> None:
    reader = chestxray.load(run / "bundle", "torch")
    warned = [
        "secondary-capture"
        in {notice.code for notice in reader.read(written(image), force=True).warnings}
        for image in (capture(), radiograph())
    ]
    assert warned == [True, False]


def test_burned_in_text_cannot_be_allowed_of_what_is_not_received(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="add secondary_captures = true"):
        config(tmp_path, burned_in_annotation=True)
