"""A name or number in the wrong element reaches neither log, nor dead letters, nor audit record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset
from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VR, tag_for_keyword

import chestxray
from chestxray import artifacts
from chestxray.serving.gateway import audit, dead_letters, image_decoding
from chestxray.serving.gateway.store import READ, Image, Store
from chestxray.serving.gateway.worker import handle
from dicom_files import written
from gateway_parts import config, film, radiograph

PLANTED = "SECRETNAME^1234567"
PACS = '[[destinations]]\nname = "pacs"\nkind = "stow"\nurl = "http://x"\n'
TEXT_VRS = set("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI".split())  # noqa: SIM905
MORE = [
    "AnatomicRegionSequence",
    "ConversionType",
    "Laterality",
    "ImageLaterality",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "Modality",
    "NumberOfFrames",
    "PatientAge",
    "PatientOrientation",
    "PixelAspectRatio",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PresentationLUTShape",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "SpecificCharacterSet",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
    "VOILUTFunction",
    "ViewPosition",
    "WindowCenter",
    "WindowWidth",
    "ImageComments",
]


def planted(keyword: str) -> Dataset:
    """A radiograph with a name in one element, whatever that element is for."""
    image = radiograph(WindowCenter="1500", WindowWidth="3000", stored=film(pixels=32))
    vr = dictionary_VR(keyword)
    with pydicom_config.disable_value_validation():
        # As text of another VR, since pydicom writes no name as a number or a sequence.
        vr = "LO" if vr in {"DS", "IS", "SQ", "UI"} else vr
        image[keyword] = DataElement(tag_for_keyword(keyword), vr, PLANTED)
    return image


def text_elements() -> list[str]:
    own = [
        element.keyword
        for element in radiograph()
        if element.VR in TEXT_VRS and element.keyword not in {"SOPInstanceUID", "SOPClassUID"}
    ]
    return sorted({*own, *MORE})


@pytest.mark.filterwarnings("ignore")  # as the gateway has it
def test_a_name_in_any_text_element_is_quoted_nowhere(
    tmp_path: Path,
    run: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO", logger="chestxray")
    reader = chestxray.load(run / "bundle", "torch")
    decoder = image_decoding.decoder(reader.size, 120)
    settings = config(tmp_path, PACS)
    store = Store(settings.state)
    for keyword in text_elements():
        image = planted(keyword)
        with pydicom_config.disable_value_validation():
            content = written(image)
        assert PLANTED.encode() in content
        uid = str(image.SOPInstanceUID)
        artifacts.write_bytes(store.image_file(uid), content)
        store.add(Image(uid, hashlib.sha256(content).hexdigest(), "SENDER", "DX"))
        task = store.claim(READ, 60, 5)
        assert task
        handle(task, settings, reader, decoder, store)
    rows = [dict(row) for row in store.db.execute("SELECT * FROM tasks")]
    outcomes = {row["state"] for row in rows if row["queue"] == READ}
    assert outcomes == {"done", "dead"}, "some are read or refused, others cannot be"
    decoder.close()
    told = [
        *capfd.readouterr(),  # of the decoder's process too
        *(record.getMessage() for record in caplog.records if record.name.startswith("chestxray")),
        json.dumps(rows),
        json.dumps(dead_letters.dead_letters(store.db)),
        json.dumps(list(audit.verified_entries(store.db))),
    ]
    for text in told:
        assert "SECRETNAME" not in text.upper()
        assert "1234567" not in text
    store.close()


def test_a_refusal_is_recorded_by_its_codes(tmp_path: Path, run: Path) -> None:
    settings = config(tmp_path, PACS)
    store = Store(settings.state)
    image = planted("BodyPartExamined")
    image.BodyPartExamined = "HAND"
    content = written(image)
    uid = str(image.SOPInstanceUID)
    artifacts.write_bytes(store.image_file(uid), content)
    store.add(Image(uid, hashlib.sha256(content).hexdigest(), "SENDER", "DX"))
    reader = chestxray.load(run / "bundle", "torch")
    decoder = image_decoding.decoder(reader.size, 120)
    handle(store.claim(READ, 60, 5), settings, reader, decoder, store)
    decoder.close()
    entry = json.loads(list(audit.verified_entries(store.db))[-1]["entry"])
    assert "body-part-other" in entry["reason"].split("; ")
    assert "HAND" not in entry["reason"]
    store.close()
