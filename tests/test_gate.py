"""Each notice of the gate, provoked; and silence where there is nothing to say."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pydicom import Dataset
from pydicom.uid import DigitalXRayImageStorageForProcessing

import chestxray
from chestxray.dataset.dicom import Header
from chestxray.dataset.pixels import canonical, decode
from chestxray.dataset.radiograph import Radiograph
from chestxray.errors import Notice, RefusedError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.model.bundle import GATE
from chestxray.model.out_of_distribution import STATES, Detector, Template, _limit, held_out
from chestxray.reading import gate
from chestxray.reading.explanation import explain
from chestxray.reading.gate import checks
from chestxray.reading.gate.notices import NOTICES, refusal, warning
from chestxray.reading.inputs import find
from chestxray.reading.judged_image import JudgedImage, load
from chestxray.reading.prediction import predict, predict_inputs
from chestxray.reading.reader import Reader
from chestxray.training.data import Part
from chestxray.training.finalize import fit_detector
from dicom_files import dicom


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", "torch")


@pytest.fixture(scope="module")
def paths(phantoms: Path) -> list[Path]:
    return sorted((phantoms / "images_001/images").iterdir())


def said(notices: tuple[Notice, ...]) -> set[tuple[str, bool]]:
    """Code and whether it refuses."""
    return {(notice.code, notice.refuses) for notice in notices}


def figures(notice: Notice) -> dict[str, float | str]:
    return dataclasses.asdict(notice)["values"]


# --- the table ----------------------------------------------------------------------------------


def test_the_table_holds_every_notice_that_is_made_and_no_other():
    folder = Path(gate.__file__).parent
    made = {code for code, *_ in checks._REFUSES_ALONE}
    for path in (*folder.glob("*.py"), folder.parent / "reader.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if called in {"refusal", "warning"} and isinstance(node.args[0], ast.Constant):
                made.add(node.args[0].value)
    assert made == set(NOTICES)


def test_a_notice_against_the_table_cannot_be_made():
    with pytest.raises(KeyError):
        warning("no-such-code")
    with pytest.raises(ValueError, match="burned-in never refuses"):
        refusal("burned-in")
    with pytest.raises(ValueError, match="blank never warns"):
        warning("blank")


# --- headers ------------------------------------------------------------------------------------

FRONTAL = {
    "Modality": "DX",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "PatientAge": "054Y",
    "PresentationIntentType": "FOR PRESENTATION",
    "BurnedInAnnotation": "NO",
}
RAMP = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))


def header(**changes: object) -> Header:
    found = Radiograph.read(dicom(RAMP, 8, **{**FRONTAL, **changes})).header
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"ViewPosition": "AP"}, None),
        ({"Modality": "CR"}, None),
        ({"BodyPartExamined": "PORT CHEST"}, None),
        ({"PatientAge": "018Y"}, None),
        ({"Modality": "CT"}, ("modality-other", True)),
        ({"Modality": ""}, ("modality-unknown", False)),
        ({"BodyPartExamined": "KNEE"}, ("body-part-other", True)),
        ({"BodyPartExamined": "TSPINE"}, ("body-part-other", True)),
        ({"BodyPartExamined": ""}, ("body-part-unknown", False)),
        ({"BodyPartExamined": "RIB"}, ("body-part-unknown", False)),
        ({"BodyPartExamined": "CHESTABDOMEN"}, ("body-part-unknown", False)),
        ({"ViewPosition": "PA_ERECT"}, None),
        ({"ViewPosition": "AP SUPINE"}, None),
        ({"ViewPosition": "PA", "PatientOrientation": ["A", "F"]}, None),
        ({"ViewPosition": "LL"}, ("view-lateral", True)),
        ({"ViewPosition": "RL"}, ("view-lateral", True)),
        ({"ViewPosition": "LATERAL"}, ("view-lateral", True)),
        ({"ViewPosition": "L LAT"}, ("view-lateral", True)),
        ({"ViewPosition": "", "PatientOrientation": ["A", "F"]}, ("view-lateral", True)),
        ({"ViewPosition": "LLD"}, ("view-other", True)),
        ({"ViewPosition": "RAO"}, ("view-other", True)),
        ({"ViewPosition": "AP LORDOTIC"}, ("view-other", True)),
        ({"ViewPosition": "OTHER"}, ("view-unknown", False)),
        ({"ViewPosition": ""}, ("view-unknown", False)),
        ({"ViewPosition": "", "PatientOrientation": ["L", "F"]}, ("view-unknown", False)),
        ({"PatientAge": "011M"}, ("age-under-18", False)),
        ({"PatientAge": "017Y"}, ("age-under-18", False)),
        ({"PresentationIntentType": "FOR PROCESSING"}, ("for-processing", True)),
        ({"BurnedInAnnotation": "YES"}, ("burned-in", False)),
        ({"BurnedInAnnotation": ""}, None),
    ],
)
def test_a_header_provokes_its_notice_and_no_other(changes, expected):
    notices = checks.header(header(**changes))
    assert said(notices) == ({expected} if expected else set())
    for value in changes.values():
        if expected and isinstance(value, str) and value and expected[0] != "age-under-18":
            assert value in notices[0].sentence


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"view_position": "A-P"}, None),
        ({"view_position": "LATERAL DECUBITUS"}, ("view-other", True)),
        (
            {"view_position": "N/A", "patient_orientation": ("P", "F")},
            ("view-lateral", True),
        ),
        ({"view_position": "N/A", "patient_orientation": ("",)}, ("view-unknown", False)),
        ({"patient_age": None}, None),
        ({"burned_in_annotation": None}, None),
        ({"presentation_intent": ""}, None),
        (
            {"presentation_intent": "", "sop_class_uid": DigitalXRayImageStorageForProcessing},
            ("for-processing", True),
        ),
    ],
)
def test_values_against_the_standard_are_judged_too(changes, expected):
    notices = checks.header(dataclasses.replace(header(), **changes))
    assert said(notices) == ({expected} if expected else set())


@pytest.mark.parametrize(
    ("meaning", "expected"),
    [
        ("postero-anterior", None),
        ("Antero-posterior projection", None),
        ("Left lateral projection", ("view-lateral", True)),
        ("left anterior oblique", ("view-other", True)),
    ],
)
def test_the_views_code_speaks_where_its_position_is_empty(meaning, expected):
    code = Dataset()
    code.CodeMeaning = meaning
    notices = checks.header(header(ViewPosition="", ViewCodeSequence=[code]))
    assert said(notices) == ({expected} if expected else set())


@pytest.mark.parametrize(
    ("age", "words"), [("006M", "6 months"), ("010D", "0 months"), ("017Y", "17 years")]
)
def test_a_childs_age_is_put_in_words(age, words):
    (notice,) = checks.header(header(PatientAge=age))
    assert f"The patient is {words} old" in notice.sentence


def test_what_the_decoder_doubts_is_said_in_one_notice():
    doubtful = dataclasses.replace(header(), notes=("one thing", "another"))
    assert said(checks.header(doubtful)) == {("pixels-doubtful", False)}


# --- pixels -------------------------------------------------------------------------------------


def grain(height: int = 256, width: int = 256) -> np.ndarray:
    """A picture with contrast and detail, none of it at the ends of the range."""
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(20, 230, (height, width)).astype(np.uint8), (0, 0), 2)


def clipped(low: float, high: float) -> np.ndarray:
    image = grain()
    flat = np.argsort(image.ravel(), kind="stable")
    image.ravel()[flat[: int(low * flat.size)]] = 0
    image.ravel()[flat[flat.size - int(high * flat.size) :]] = 255
    return image


@pytest.mark.parametrize(
    ("image", "colour", "expected"),
    [
        (grain(), 0.0, None),
        (grain().astype(np.uint16) * 257, 0.0, None),
        (np.full((256, 256), 90, np.uint8), 0.0, ("blank", True)),
        (np.tile(np.arange(256, dtype=np.uint8), (256, 1)), 0.0, ("blank", True)),
        (clipped(0.2, 0.05), 0.0, None),
        (clipped(0.8, 0.0), 0.0, ("saturated", False)),
        (clipped(0.0, 0.2), 0.0, ("saturated", False)),
        (clipped(0.95, 0.0), 0.0, ("saturated", True)),
        (clipped(0.0, 0.5).astype(np.uint16) * 257, 0.0, ("saturated", True)),
        (grain(200, 200), 0.0, ("too-small", False)),
        (grain(100, 300), 0.0, ("too-small", True)),
        (grain(), 0.01, ("colour", False)),
        (grain(), 0.2, ("colour", True)),
    ],
)
def test_pixels_provoke_their_notice_and_no_other(image, colour, expected):
    notices = checks.pixels(image, 224, colour)
    assert said(notices) == ({expected} if expected else set())
    assert all(figures(notice) for notice in notices)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_colour_is_seen_in_the_file_though_its_luminance_is_read(tmp_path, suffix):
    grey = np.repeat(grain()[..., None], 3, axis=2)
    tinted = (grey * np.array([1.0, 0.9, 0.7])).astype(np.uint8)
    for name, pixels in (("grey", grey), ("tinted", tinted), ("plain", grain())):
        cv2.imwrite(str(tmp_path / f"{name}{suffix}"), pixels)
    assert Radiograph.read(tmp_path / f"plain{suffix}").chroma == 0
    assert Radiograph.read(tmp_path / f"grey{suffix}").chroma == 0
    assert Radiograph.read(tmp_path / f"tinted{suffix}").chroma > 0.04
    assert said(load(tmp_path / f"tinted{suffix}", 64).notices) == {("colour", True)}


# --- likeness to the training images --------------------------------------------------------------


@pytest.fixture(scope="module")
def template(dataset) -> Template:
    return Template.fit(dataset.images[dataset.rows("train")])


def test_the_template_undoes_every_state(template, dataset):
    """An image put into a state looks least strange when that state is undone."""
    images = dataset.images[dataset.rows("test")]
    for place, (degrees, negative) in enumerate(STATES):
        moved = np.ascontiguousarray(np.rot90(images, degrees // 90, axes=(1, 2)))
        found = template.strangeness(255 - moved if negative else moved)
        assert (found.argmin(axis=1) == place).mean() > 0.95
        assert np.allclose(found[:, place], template.strangeness(images)[:, 0], atol=1e-4)


def test_radiographs_look_usual_and_parts_of_them_strange(template, dataset):
    """The scale: on average, whole radiographs are at 0 and anything else is at 1."""
    images = dataset.images[dataset.rows("test")]
    parts = np.stack([cv2.resize(image[:14, 8:22], (32, 32)) for image in images])
    assert abs(np.median(template.strangeness(images)[:, 0])) < 0.25
    assert np.median(template.strangeness(parts)[:, 0]) > 0.7


def test_brightness_and_contrast_do_not_change_the_look(template, dataset):
    images = dataset.images[:10]
    pale = (images * 0.5 + 60).astype(np.uint8)
    assert np.allclose(template.strangeness(pale), template.strangeness(images), atol=0.1)


def test_mirrored_films_look_the_same(template, dataset):
    mirrored = template.strangeness(np.ascontiguousarray(dataset.images[:][:, :, ::-1]))
    assert np.allclose(mirrored[:, 0], template.strangeness(dataset.images[:])[:, 0], atol=1e-3)


def test_images_without_any_edge_can_be_fitted_and_judged():
    blank = np.full((2, 32, 32), 90, np.uint8)
    assert np.isfinite(Template.fit(blank).strangeness(blank)).all()


def test_a_limit_stops_no_more_radiographs_than_it_promises():
    """Over many draws, a fresh radiograph lies beyond the limit as often as stated, or less."""
    rng = np.random.default_rng(0)
    for count, promised in ((400, 0.02), (30, 1 / 31)):
        alarms = [rng.gamma(2.0) > _limit(rng.gamma(2.0, size=count)) for _ in range(3000)]
        assert np.mean(alarms) < promised + 3 * np.sqrt(promised / 3000)


def test_the_nearest_reference_is_at_no_distance(reader):
    fitted = reader.bundle.detector
    features = fitted.references.astype(np.float32)[:5]
    one = dataclasses.replace(fitted, references=fitted.references[:1])
    assert one.feature_distance(features[:1] * 7)[0] < 1e-3
    assert one.feature_distance(-features[:1])[0] > 1.9


def fitted(features: np.ndarray, patients: np.ndarray) -> Detector:
    images = np.random.default_rng(0).integers(0, 255, (len(features), 32, 32), dtype=np.uint8)
    return Detector.fit(images[:1].repeat(2, 0), images, features.astype(np.float32), patients)


def test_new_patients_lie_beyond_the_limit_as_seldom_as_promised():
    """Five like images of each patient, who would be their own neighbours, make no limit tight."""
    rng = np.random.default_rng(0)

    def drawn(patients: int) -> np.ndarray:
        of_patient = rng.normal(size=(patients, 1, 6))
        return (of_patient + 0.01 * rng.normal(size=(patients, 5, 6))).reshape(-1, 6)

    beyond = []
    for _ in range(20):
        gate = fitted(drawn(150), np.repeat(np.arange(150), 5))
        beyond.append(gate.feature_distance(drawn(100)) > gate.limits.features)
    assert np.mean(beyond) < 0.035


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_handful_of_validation_images_makes_a_gate_that_warns_of_none_of_them(count):
    features = np.random.default_rng(0).normal(size=(count, 6))
    gate = fitted(features, np.arange(count))
    assert (gate.feature_distance(features) <= gate.limits.features).all()
    assert gate.limits.false_alarms == pytest.approx(1 / (count + 1))


def test_clean_phantoms_pass_and_few_are_warned_of(reader, paths):
    _, _, notices = reader.read_judged([load(path, reader.size) for path in paths])
    assert np.mean([any(n.refuses for n in of) for of in notices]) <= 0.03
    assert np.mean([bool(of) for of in notices]) <= 0.12


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_radiographs_are_refused_and_the_turn_is_named(reader, paths, degrees):
    originals = [decode(path) for path in paths[:40]]
    turned = [np.ascontiguousarray(np.rot90(image, -degrees // 90)) for image in originals]
    _, _, notices = reader.read_judged(
        [JudgedImage.of_array(image, reader.size) for image in turned]
    )
    named = [figures(n)["degrees"] == degrees for of in notices for n in of if n.code == "rotated"]
    assert sum(named) >= 36


def test_negatives_are_refused(reader, paths):
    negatives = [JudgedImage.of_array(255 - decode(path), reader.size) for path in paths[:40]]
    _, _, notices = reader.read_judged(negatives)
    assert sum(("inverted", True) in said(of) for of in notices) >= 36


def test_corners_of_radiographs_are_refused_as_unlike_a_chest(reader, paths):
    corners = [decode(path)[:32, 32 * (n % 2) :][:, :32] for n, path in enumerate(paths[:40])]
    _, _, notices = reader.read_judged(
        [JudgedImage.of_array(corner, reader.size) for corner in corners]
    )
    assert sum(("unlike-chest", True) in said(of) for of in notices) >= 36


def strange() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    page = np.full((512, 512), 250, np.uint8)
    for line in range(30, 500, 22):
        cv2.putText(page, "not a chest radiograph, words", (20, line), 0, 0.7, 5, 2)
    board = (np.indices((512, 512)) // 64).sum(axis=0) % 2
    rings = np.hypot(*(np.indices((512, 512)) - 256)) // 20 % 2
    return {
        "noise": rng.integers(1, 255, (512, 512), dtype=np.uint8),
        "page": page,
        "board": (board * 200 + 20).astype(np.uint8),
        "rings": (rings * 200 + 20).astype(np.uint8),
    }


@pytest.mark.parametrize("kind", list(strange()))
def test_pictures_that_are_no_radiographs_are_refused(reader, kind):
    with pytest.raises(RefusedError) as refused:
        reader.read(strange()[kind])
    assert said(refused.value.notices) & {("unlike-chest", True), ("far-from-training", True)}


# --- real radiographs ---------------------------------------------------------------------------


def test_on_real_radiographs_parts_and_other_radiographs_stand_out_and_new_radiographs_do_not(real):
    """Fitted on 400 radiographs, judged on the next 300 and on parts of them."""
    paths = sorted((real / "nih-sample/images").iterdir())
    radiographs = np.stack([canonical(decode(path), 224) for path in paths[:700]])
    template = Template.fit(radiographs[:400])

    def looks(images: np.ndarray) -> np.ndarray:
        return template.strangeness(images)[:, 0]

    def part(image: np.ndarray, place: int, pixels: int) -> np.ndarray:
        y, x = ((224 - pixels) * (place % 2), (224 - pixels) * (place // 2 % 2))
        return cv2.resize(image[y : y + pixels, x : x + pixels], (224, 224))

    limit, new = _limit(held_out(radiographs[:400])), radiographs[400:]
    assert (looks(new) > limit).mean() < 0.04
    assert (looks(new) > 1.25 * limit).mean() < 0.015
    for pixels in (75, 112):
        parts = np.stack([part(radiograph, n, pixels) for n, radiograph in enumerate(new)])
        assert (looks(parts) > limit).mean() > 0.97
    side_of_a_dog = canonical(decode(real / "dicom/highdicom_dx_image.dcm"), 224)
    assert looks(side_of_a_dog[None]) > limit


def test_a_value_just_beyond_its_limit_is_not_shown_as_the_limit():
    (notice,) = checks._out_of_distribution(0.5, 1.0001)
    assert notice.sentence.endswith("it differs by 1.01 times the accepted limit")


def test_braces_in_a_header_are_shown_as_they_are():
    (notice,) = checks.header(dataclasses.replace(header(), modality="{OT}"))
    assert "{OT}" in notice.sentence


# --- one door -----------------------------------------------------------------------------------


def test_a_refusal_says_why_and_force_reads_all_the_same(reader, paths):
    negative = 255 - decode(paths[0])
    with pytest.raises(RefusedError, match="negative") as refused:
        reader.read(negative)
    forced = reader.read(negative, force=True)
    assert forced.warnings == refused.value.notices + reader.warnings
    assert all(0 <= p <= 1 for p in forced.probabilities.values())


def test_a_radiograph_from_bytes_is_that_from_the_file(reader, paths):
    ours, theirs = reader.read(paths[0].read_bytes()), reader.read(paths[0])
    assert ours.probabilities == theirs.probabilities
    assert ours.warnings == theirs.warnings


def test_a_lateral_dicom_radiograph_is_refused_and_a_childs_is_read(reader, paths):
    image = decode(paths[0])
    child = {**FRONTAL, "PatientAge": "007Y"}
    assert ("age-under-18", False) in said(reader.read(dicom(image, 8, **child)).warnings)
    with pytest.raises(RefusedError, match="lateral"):
        reader.read(dicom(image, 8, **{**FRONTAL, "ViewPosition": "LL"}))


def test_a_bundle_without_a_gate_says_so_and_checks_headers_and_pixels(run, paths, tmp_path):
    folder = Path(shutil.copytree(run / "bundle", tmp_path / "bundle"))
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    del card["gate"]
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    (folder / GATE).unlink()
    old = chestxray.load(folder, "torch")
    assert ("gate-not-fitted", False) in said(old.read(255 - decode(paths[0])).warnings)
    with pytest.raises(RefusedError, match="contrast"):
        old.read(np.full((64, 64), 90, np.uint8))


@pytest.fixture
def mixed(paths: list[Path], tmp_path: Path) -> Path:
    """A good radiograph, a negative, a blank one, and no radiograph."""
    out = tmp_path / "radiographs"
    out.mkdir()
    shutil.copy(paths[0], out / "1-good.png")
    cv2.imwrite(str(out / "2-negative.png"), 255 - decode(paths[0]))
    cv2.imwrite(str(out / "3-blank.png"), np.full((64, 64), 90, np.uint8))
    (out / "4-words.png").write_text("words", encoding="utf-8")
    return out


def test_predict_says_which_radiographs_were_refused_and_why(reader, mixed, tmp_path):
    out = tmp_path / "predictions.csv"
    run = predict(reader, mixed, out, heatmaps=True)
    table = pd.read_csv(out, keep_default_na=False)
    assert table["status"].tolist() == ["ok", "refused", "refused", "error"]
    assert table["reason"][1].startswith("inverted: The image is a negative")
    assert table["reason"][2].startswith("blank: The image has hardly any contrast")
    assert table["prob_Mass"].tolist()[1:] == ["", "", ""]
    assert set(run.refused) == {"2-negative.png", "3-blank.png"}
    assert set(run.failed) == {"4-words.png"}
    assert np.isnan(np.load(tmp_path / "heatmaps.npy")[1:].astype(np.float32)).all()


def test_forced_predict_reads_what_is_refused_and_keeps_the_reason(reader, mixed, tmp_path):
    out = tmp_path / "predictions.csv"
    run = predict(reader, mixed, out, force=True)
    table = pd.read_csv(out, keep_default_na=False)
    assert table["status"].tolist() == ["ok", "ok", "ok", "error"]
    assert table["reason"][1].startswith("inverted: ")
    assert table["prob_Mass"][1] != ""
    assert run.refused == {}


def test_explaining_leaves_out_refused_radiographs_unless_forced(reader, mixed, tmp_path):
    run = explain(reader, mixed, tmp_path / "out", findings=("Mass",))
    assert set(run.unread) == {"2-negative.png", "3-blank.png", "4-words.png"}
    forced = explain(reader, mixed, tmp_path / "forced", findings=("Mass",), force=True)
    assert set(forced.unread) == {"4-words.png"}


def test_a_datasets_images_are_not_judged(reader, dataset, tmp_path):
    """A negative of a whole split is predicted in full: an evaluation loses no image."""
    negative = dataclasses.replace(dataset, images=255 - np.asarray(dataset.images))
    chosen = dataclasses.replace(
        find([dataset.folder], "test", reader.bundle.card), dataset=negative
    )
    run = predict_inputs(reader, chosen, tmp_path / "predictions.csv")
    assert run.read == run.rows


def test_a_radiograph_is_judged_alike_alone_and_in_a_batch(reader, paths):
    batch = [load(path, reader.size) for path in paths[:6]]
    batch.append(JudgedImage(255 - batch[0].image, ()))
    _, _, together = reader.read_judged(batch)
    alone = [reader.read_judged([radiograph])[2][0] for radiograph in batch]
    assert [said(of) for of in together] == [said(of) for of in alone]


def test_fitting_is_repeatable(dataset):
    features = np.random.default_rng(0).normal(size=(len(dataset.rows("val")), 6))
    val = Part(dataset, "val")
    first, second = (fit_detector(dataset, 3, val, features.astype(np.float32)) for _ in "12")
    assert first.limits == second.limits
    assert np.array_equal(first.template.weights, second.template.weights)
    assert np.array_equal(first.references, second.references)
