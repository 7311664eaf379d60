from __future__ import annotations

import base64
import io
import json
import os
import re
import threading
import weakref
from dataclasses import asdict, fields, replace
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

import chestxray
from chestxray.dataset import pixels
from chestxray.dataset.preparation import prepare
from chestxray.dataset.radiograph import Radiograph
from chestxray.errors import (
    ArtifactError,
    ImageError,
    Notice,
    PredictionsError,
    RefusedError,
    SourceError,
)
from chestxray.evaluation import localization as localisation
from chestxray.evaluation import predictions
from chestxray.findings import label
from chestxray.reading import explanation
from chestxray.reading.explanation import explain, explain_inputs
from chestxray.reading.inputs import RadiographFiles, find, leakage
from chestxray.reading.judged_image import JudgedImage
from chestxray.reading.prediction import predict, predict_inputs
from chestxray.reading.reader import Reader, Reading
from chestxray.sources.nih import FINDINGS


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", operating_point="youden")  # which calls the most


@pytest.fixture
def folder(phantoms: Path, tmp_path: Path) -> Path:
    """Five phantoms, among them a truncated one, a text file by a PNG's name, and a JPEG."""
    out = tmp_path / "radiographs"
    out.mkdir()
    originals = sorted((phantoms / "images_001/images").iterdir())[:5]
    for path in originals:
        (out / path.name).write_bytes(path.read_bytes())
    data = originals[1].read_bytes()
    (out / originals[1].name).write_bytes(data[: len(data) // 2])
    (out / "words.png").write_text("not a radiograph", encoding="utf-8")
    grey = cv2.imread(str(originals[2]), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(out / "radiograph.jpg"), grey)
    return out


def test_a_reading_has_probabilities_heatmaps_and_calls_for_all_findings(reader, phantoms):
    radiograph = next((phantoms / "images_001/images").iterdir())
    reading = reader.read(radiograph)
    assert tuple(reading.probabilities) == FINDINGS
    assert all(0 <= p <= 1 for p in reading.probabilities.values())
    for finding in FINDINGS:
        heat = reading.heatmaps[finding]
        assert heat.dtype == np.float32
        assert heat.min() >= 0
        threshold = reader.bundle.card.thresholds[finding]
        expected = None if threshold is None else reading.probabilities[finding] >= threshold
        assert reading.calls[finding] == expected


def test_a_radiograph_reads_the_same_from_its_file_its_array_and_the_dataset(
    reader, phantoms, dataset
):
    name = dataset.index["image"].iloc[0]
    path = next(phantoms.rglob(name))
    from_file = reader.read(path)
    from_array = reader.read(pixels.decode(path))
    probabilities, heat = reader.read_batch(dataset.images[:1])
    assert from_file.probabilities == from_array.probabilities
    assert list(from_file.probabilities.values()) == probabilities[0].tolist()
    assert np.array_equal(np.stack(list(from_file.heatmaps.values())), heat[0])


def test_findings_without_calibration_are_warned_of_in_one_notice(reader):
    unfitted = reader.bundle.card.calibration.unfitted
    (warning,) = (notice for notice in reader.warnings if notice.code == "not-calibrated")
    assert asdict(warning)["values"] == unfitted
    assert all(finding in warning.sentence for finding in unfitted)


def test_a_model_of_phantoms_warns_that_it_knows_no_real_radiograph(reader):
    assert reader.warnings[0].code == "trained-on-synthetic"


def test_a_file_that_cannot_be_read_keeps_its_row_and_the_others_go_on(reader, folder, tmp_path):
    chosen = find([folder], None, reader.bundle.card)
    unread = predict_inputs(reader, chosen, tmp_path / "predictions.csv", heatmaps=True)
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False, dtype=str)
    heat = np.load(tmp_path / "heatmaps.npy")
    assert table["Image Index"].tolist() == sorted(path.name for path in folder.iterdir())
    assert len(unread.failed) == 2
    assert unread.refused == {}
    assert heat.dtype == np.float16
    assert len(heat) == len(table)
    for row, name in enumerate(table["Image Index"]):
        failed = name in unread.failed
        assert (table["status"][row] == "error") == failed
        assert (table["reason"][row] == unread.failed.get(name, "")) or not failed
        assert (table["prob_Mass"][row] == "") == failed
        assert np.isnan(heat[row]).all() == failed


def test_predictions_stand_beside_the_right_names(reader, folder, tmp_path):
    predict_inputs(reader, find([folder], None, reader.bundle.card), tmp_path / "predictions.csv")
    table = pd.read_csv(tmp_path / "predictions.csv").set_index("Image Index")
    for path in folder.iterdir():
        if table.loc[path.name, "status"] == "ok":
            alone = reader.read(path).probabilities
            for finding in FINDINGS:
                assert np.isclose(
                    table.loc[path.name, f"prob_{finding}"], alone[finding], rtol=1e-4
                )


def test_a_row_says_what_is_called_and_by_which_model(reader, run, folder, tmp_path):
    predict_inputs(reader, find([folder], None, reader.bundle.card), tmp_path / "predictions.csv")
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    added = ["called", "not_assessed", "operating_point", "model", "origin"]
    assert table.columns.tolist()[-7:] == ["status", "reason", *added]
    assert set(table["model"]) == {reader.bundle.identity}
    card = json.loads((run / "bundle/bundle.json").read_text(encoding="utf-8"))
    thresholds = card["operating_points"]["youden"]
    assert table["called"].any()
    for row in table.to_dict("records"):
        reached = [
            finding
            for finding, threshold in thresholds.items()
            if row["status"] == "ok"
            and threshold is not None
            and float(row[f"prob_{finding}"]) >= threshold
        ]
        assert row["called"] == "|".join(reached)


def test_a_split_of_a_dataset_is_predicted_in_its_order(reader, dataset, tmp_path):
    chosen = find([dataset.folder], "test", reader.bundle.card)
    run = predict_inputs(reader, chosen, tmp_path / "predictions.csv")
    assert run.read == run.rows
    table = predictions.read(tmp_path / "predictions.csv").rows
    expected = dataset.index["image"].iloc[dataset.rows("test")].tolist()
    assert table["Image Index"].tolist() == expected


def test_a_dataset_needs_its_split_named(reader, dataset):
    with pytest.raises(SourceError, match="--split test"):
        find([dataset.folder], None, reader.bundle.card)


def test_a_dataset_is_not_passed_over_among_other_inputs(reader, dataset, folder):
    with pytest.raises(SourceError, match="give it as the only input"):
        find([folder, dataset.folder], None, reader.bundle.card)


def test_a_dataset_of_another_size_is_refused(reader, dataset):
    card = reader.bundle.card.model_copy(update={"size": 64})
    with pytest.raises(ArtifactError, match="prepare with --size 64"):
        find([dataset.folder], "test", card)


@pytest.mark.parametrize("case", ["absent", "empty"])
def test_inputs_that_are_no_radiographs_are_refused(reader, tmp_path, case):
    (tmp_path / "empty").mkdir()
    inputs = {"absent": [tmp_path / "no"], "empty": [tmp_path / "empty"]}
    words = {"absent": "does not exist", "empty": "no radiographs"}
    with pytest.raises(SourceError, match=words[case]):
        find(inputs[case], None, reader.bundle.card)


def test_dicom_files_are_found_by_their_content_whatever_their_names(reader, tmp_path):
    """As on a disk out of an archive; its table of contents is no image."""
    for name in ("IM0001", "1.2.840.10008.1", "DICOMDIR"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    for name in ("README", "notes.txt"):
        (tmp_path / name).write_text("no image", encoding="utf-8")
    (tmp_path / "a folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe")
    names = find([tmp_path], None, reader.bundle.card).names
    assert names == ["1.2.840.10008.1", "IM0001"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_may_not_be_searched_is_told_of(reader, folder):
    (folder / "closed").mkdir(mode=0)
    with pytest.raises(SourceError, match="closed cannot be searched"):
        find([folder], None, reader.bundle.card)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"caf\xc3\xa9\xe2\x80\xaf1.png", "café\N{NARROW NO-BREAK SPACE}1.png"),
        (b"caf\xe9.png", r"caf\udce9.png"),  # not UTF-8
        (b'a "b", c.png', 'a "b", c.png'),
        (b"two\nlines.png", r"two\nlines.png"),
        (b"cr\rhere.png", r"cr\rhere.png"),
    ],
)
def test_an_odd_name_keeps_its_row(reader, phantoms, tmp_path, name, told):
    inside = tmp_path / "radiographs"
    inside.mkdir()
    radiograph = next((phantoms / "images_001/images").iterdir())
    with open(os.path.join(os.fsencode(inside), name), "wb") as file:  # noqa: PTH118, PTH123
        file.write(radiograph.read_bytes())
    run = predict(reader, inside, tmp_path / "p.csv")
    assert run.read == run.rows == 1
    assert predictions.read(tmp_path / "p.csv").rows["Image Index"].tolist() == [told]
    assert pd.read_csv(tmp_path / "p.csv")["Image Index"].tolist() == [told]


def test_a_reason_of_several_lines_is_one_row(reader, dataset, tmp_path, monkeypatch):
    """What a broken file makes a decoder say, old Mac line ends among it."""
    chosen = RadiographFiles((tmp_path / "a.png", tmp_path / "b.png"), ["a", "b"], reader.size)
    said = [ImageError("a.png", "one\rtwo\r\nthree"), JudgedImage(dataset.images[0], ())]
    monkeypatch.setattr(RadiographFiles, "batches", lambda *_: iter([said]))
    predict_inputs(reader, chosen, tmp_path / "p.csv", force=True)
    table = predictions.read(tmp_path / "p.csv").rows
    assert table["reason"].tolist()[0] == r"one\rtwo\r\nthree"
    assert table["status"].tolist() == ["error", "ok"]


def test_a_broken_radiograph_is_an_error_that_names_it(reader, folder):
    with pytest.raises(ImageError, match=r"words\.png"):
        reader.read(folder / "words.png")


def test_explaining_a_split_picks_examples_by_rule(reader, dataset, tmp_path):
    chosen = find([dataset.folder], "test", reader.bundle.card)
    run = explain_inputs(reader, chosen, tmp_path, reader.findings)
    told = json.loads((tmp_path / "explanations.json").read_text(encoding="utf-8"))
    assert told["model"] == reader.bundle.identity
    assert told["split"]["sha256"] == dataset.manifest.split.sha256
    shown = told["shown"]
    assert shown
    assert [tmp_path / entry["file"] for entry in shown] == list(run.pictures)
    probabilities, _ = reader.read_batch(dataset.images[dataset.rows("test")])
    labels = dataset.labels(dataset.rows("test"))
    for entry in shown:
        assert (tmp_path / entry["file"]).stat().st_size > 10_000
        k = FINDINGS.index(entry["finding"])
        called = entry["probability"] >= entry["threshold"]
        assert called == (entry["kind"] != "missed")
        assert entry["label"] == int(entry["kind"] != "false call")
        rivals = probabilities[:, k][labels[:, k] == entry["label"]]
        best = rivals.min() if entry["kind"] == "missed" else rivals.max()
        assert np.isclose(entry["probability"], best, rtol=1e-4)


@pytest.mark.slow
def test_explaining_a_dataset_keeps_the_heatmaps_of_one_batch_alone(
    reader, dataset, tmp_path, monkeypatch
):
    made, alive = [], []
    read_batch = reader.read_batch

    def counted(images):
        probabilities, heat = read_batch(images)
        made.append(weakref.ref(heat))
        alive.append(sum(each() is not None for each in made))
        return probabilities, heat

    monkeypatch.setattr(explanation, "_BATCH", 4)
    monkeypatch.setattr(reader, "read_batch", counted)
    chosen = find([dataset.folder], "test", reader.bundle.card)
    explain_inputs(reader, chosen, tmp_path, reader.findings)
    assert len(made) > 10
    assert max(alive) <= 2


@pytest.mark.parametrize("finding", ["Nodule", "Pleural_Thickening", "Long name " * 6, "W" * 64])
def test_titles_stay_above_their_own_image(finding):
    """With a call and the longest note; side by side they once read "calledNodule"."""
    panel = explanation._Panel(finding, 0.123, True, np.zeros((3, 3), np.float32))
    for columns, side, letters in ((2, 4.3, 28), (5, 2.9, 18)):
        figure, axes = explanation._grid(columns, 1, side, False)
        explanation._show(
            axes[0], np.zeros((64, 64), np.uint8), explanation._title(panel, letters), ()
        )
        figure.canvas.draw()
        box = axes[0].title.get_window_extent()
        title = axes[0]._left_title.get_window_extent()
        image = axes[0].get_window_extent()
        assert title.x1 <= image.x1 + 8, "the gap between images is 12 pixels"
        assert title.y1 <= figure.bbox.y1
        assert box.y0 >= image.y1 - 1


def test_the_overlay_is_as_large_as_the_radiograph_beside_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    panel = explanation._Panel("Nodule", 0.5, False, np.zeros((3, 3), np.float32))
    explanation._write_overlay(tmp_path / "one.png", "a.png", image, panel)
    drawn = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).astype(int)
    left, top = (round(100 * inches) for inches in (explanation._PAD, explanation._TITLE))
    side, step = 430, round(100 * (4.3 + explanation._PAD))
    plain, hot = (drawn[top : top + side, x : x + side] for x in (left, left + step))
    assert np.abs(plain - hot)[2:-2, 2:-2].max() <= 2, "without heat they are the same"
    assert plain.std() > 30


def test_pictures_on_the_scale_of_each_image_are_labelled_so(reader, dataset, tmp_path):
    chosen = find([dataset.folder], "test", reader.bundle.card)
    for per_image in (False, True):
        explain_inputs(reader, chosen, tmp_path, reader.findings[:1], per_image=per_image)
        told = json.loads((tmp_path / "explanations.json").read_text(encoding="utf-8"))
        assert told["per_image"] == per_image
        assert all("not_localised" in entry for entry in told["shown"])


def test_explaining_files_writes_a_sheet_each_and_tells_of_the_broken(reader, folder, tmp_path):
    run = explain(reader, folder, tmp_path / "out", findings=FINDINGS[:4])
    assert len(run.unread) == 2
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list(folder.iterdir())) - 2


def test_a_name_is_drawn_as_it_stands(reader, phantoms, tmp_path):
    """Dollars are no formula, and a name need not be UTF-8."""
    inside = tmp_path / "radiographs"
    inside.mkdir()
    radiograph = next((phantoms / "images_001/images").iterdir())
    (inside / os.fsdecode(rb"$\frac$ caf\xe9.png")).write_bytes(radiograph.read_bytes())
    assert explain(reader, inside, tmp_path / "out", findings=FINDINGS[:1]).unread == {}
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_explaining_reads_each_file_once(reader, phantoms, tmp_path):
    """The oracle is a pipe, which gives its bytes but once."""
    data = next((phantoms / "images_001/images").iterdir()).read_bytes()
    pipe = tmp_path / "once.png"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    writer.start()
    files = RadiographFiles((pipe,), ["once.png"], reader.size, seconds=60)
    run = explain_inputs(reader, files, tmp_path / "out", reader.findings)
    assert run.unread == {}
    assert [path.name for path in run.pictures] == ["once.png.findings.png"]


def test_a_finding_that_the_model_does_not_have_cannot_be_explained(reader, folder, tmp_path):
    with pytest.raises(SourceError, match="'Elbow' is not a finding of this model: choose from"):
        explain(reader, folder, tmp_path, findings=["Mass", "Elbow"])


@pytest.fixture(scope="module")
def reading(reader, phantoms) -> Reading:
    return reader.read(min((phantoms / "images_001/images").iterdir()))


def test_a_reading_shows_its_model_calls_and_warnings_as_text(reading):
    text = repr(reading)
    called = [finding for finding, call in reading.calls.items() if call]
    assert called
    assert reading.model in text
    assert all(f"{finding} {reading.probabilities[finding]:.2f}" in text for finding in called)
    assert f"{len(reading.warnings)} warnings>" in text
    assert len(text) < 600


def test_a_reading_in_a_notebook_has_a_picture_and_every_probability(reading):
    page = reading._repr_html_()
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        for png in re.findall(r"data:image/png;base64,([^\"]+)", page)
    ]
    radiograph, shown = pictures
    assert radiograph.shape == (512, 512), "beside the overlay, at the same size"
    assert shown.shape == (512, 512, 3)
    for finding, probability in reading.probabilities.items():
        row = re.search(rf"<tr[^>]*><td>{label(finding)}</td>(.*?)</tr>", page)[1]
        assert f"<td>{probability:.3f}</td>" in row
        assert ("called" in row) == bool(reading.calls[finding])
    assert all(escape(str(notice)) in page for notice in reading.warnings)


def test_a_notebook_shows_foreign_text_as_text(reading):
    hostile = Notice("view-unknown", "ViewPosition is <script>alert(1)</script>")
    page = replace(reading, warnings=(hostile,), model="<b>model</b>")._repr_html_()
    assert "<script" not in page
    assert "<b>" not in page


def test_a_reading_as_a_dictionary_survives_json(reading):
    plain = json.loads(json.dumps(reading.to_dict(), allow_nan=False))
    assert [entry["finding"] for entry in plain["findings"]] == list(reading.findings)
    assert {entry["finding"]: entry["probability"] for entry in plain["findings"]} == (
        reading.probabilities
    )
    assert {entry["finding"]: entry["called"] for entry in plain["findings"]} == reading.calls
    assert [entry["code"] for entry in plain["warnings"]] == [n.code for n in reading.warnings]
    assert "heatmap" not in plain["findings"][0]
    full = json.loads(json.dumps(reading.to_dict(heatmaps=True), allow_nan=False))
    for entry in full["findings"]:
        assert np.array_equal(np.float32(entry["heatmap"]), reading.heatmaps[entry["finding"]])


def test_an_overlay_is_the_radiograph_where_there_is_no_heat(reading):
    heatless = {finding: np.zeros((2, 2), np.float32) for finding in reading.findings}
    shown = replace(reading, heatmaps=heatless).overlay("Mass")
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, np.repeat(reading.image[..., None], 3, axis=2))
    with pytest.raises(KeyError, match="'Elbow' is not a finding of this model"):
        reading.overlay("Elbow")


def test_an_overlay_takes_a_finding_under_any_of_its_spellings(reading):
    of = reading.overlay("Pleural_Thickening")
    for spelling in ("pleural thickening", "Pleural Thickening"):
        assert np.array_equal(reading.overlay(spelling), of)


def test_an_overlay_on_the_scale_of_its_own_peak_is_the_same_for_any_strength_of_evidence(reading):
    heat = np.eye(3, dtype=np.float32)
    weak, strong = (
        replace(reading, heatmaps=reading.heatmaps | {"Mass": scale * heat}) for scale in (0.1, 2)
    )
    own = weak.overlay("Mass", per_image=True)
    assert np.array_equal(own, strong.overlay("Mass", per_image=True))
    assert not np.array_equal(own, weak.overlay("Mass"))


RAMP = np.arange(32 * 32).reshape(32, 32)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.random.default_rng(0).random((32, 32)), "but this is float64: scale it"),
        (np.full((32, 32), 300, np.int32), "but this is int32: scale it"),
        (
            np.zeros((32, 32, 3), np.uint8),
            r"\[32, 32, 3\], apparently in colour: convert it to grey",
        ),
        (np.zeros((32, 32, 1), np.uint8), r"give array\[:, :, 0\]"),
        (np.zeros((2, 32, 32), np.uint8), "read one radiograph at a time"),
        (np.zeros((0, 32), np.uint8), "without pixels"),
        ((RAMP * 4).astype(np.uint16), "brightest pixel here is 4092, .*: scale it to 0 to 65535"),
    ],
    ids=["float", "int32", "colour", "channel", "stack", "empty", "12 bits"],
)
def test_an_array_that_would_be_misread_is_refused_with_the_next_step(reader, array, told):
    with pytest.raises(ImageError, match=told) as refused:
        reader.read(array, force=True)
    assert ("uint8" in str(refused.value)) == (array.dtype not in (np.uint8, np.uint16))


def test_twelve_bits_are_read_once_they_are_scaled_and_a_black_array_is_blank(reader, phantoms):
    radiograph = next((phantoms / "images_001/images").iterdir())
    twelve = pixels.decode(radiograph).astype(np.uint16) * 16
    with pytest.raises(ImageError, match="12 bits"):
        reader.read(twelve)
    assert tuple(reader.read(twelve * 16, force=True).probabilities) == FINDINGS
    with pytest.raises(RefusedError, match="hardly any contrast"):
        reader.read(np.zeros((64, 64), np.uint16))


@pytest.mark.parametrize(
    ("source", "step"),
    [
        (pydicom.Dataset(), "give one of these"),
        (Image.new("L", (64, 64)), "give one of these"),
        (io.StringIO("words"), "a binary file"),
        (None, "give one of these"),
        (["a.png", "b.png"], "read one radiograph at a time"),
    ],
    ids=["Dataset", "Pillow", "text", "None", "list"],
)
def test_what_is_no_radiograph_is_an_error_that_says_what_is(reader, source, step):
    with pytest.raises(
        ImageError, match=f"^{type(source).__name__}: a radiograph is read .*{step}"
    ):
        reader.read(source)


def test_a_radiograph_reads_the_same_in_whatever_form_it_is_given(reader, phantoms):
    path = next((phantoms / "images_001/images").iterdir())
    expected = reader.read(path)
    with path.open("rb") as file:
        data = path.read_bytes()
        for source in (file, io.BytesIO(data), data, str(path), Radiograph.read(path)):
            reading = reader.read(source)
            assert reading.probabilities == expected.probabilities
            assert reading.warnings == expected.warnings


@pytest.mark.parametrize(
    "images",
    [["x.png"], np.zeros((1, 64, 64), np.uint8), np.zeros((1, 32, 32)), np.zeros((32, 32), "u1")],
    ids=["names", "size", "float", "one"],
)
def test_a_batch_of_anything_but_canonical_images_is_refused(reader, images):
    with pytest.raises(ImageError, match=r"uint8 \[B, 32, 32\].*to `read`, one at a time"):
        reader.read_batch(images)


def test_a_reading_says_where_the_radiograph_lies_under_its_heatmaps(reader):
    """The oracle is the square itself: it is black where the radiograph is not."""
    radiograph = np.random.default_rng(0).integers(100, 255, (48, 64), dtype=np.uint8)
    for array in (radiograph, radiograph.T, radiograph[:, :48]):
        x, y, w, h = (
            round(fraction * reader.size) for fraction in reader.read(array, force=True).placement
        )
        square = pixels.canonical(array, reader.size)
        assert square[y : y + h, x : x + w].all()
        assert np.count_nonzero(square) == w * h


def test_the_packages_help_describes_every_field_of_a_reading():
    for field in fields(Reading):
        assert re.search(rf"reading\.{field.name}\b|`{field.name}`", chestxray.__doc__)


def test_a_reader_shows_its_model_and_its_engine(reader):
    assert repr(reader) == f"<Reader of {reader.bundle.identity} by {reader.engine.name}>"


def test_explaining_into_the_radiographs_own_folder_leaves_the_radiographs_alone(reader, folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    explain(reader, folder, folder, findings=FINDINGS[:2])
    assert all(path.read_bytes() == data for path, data in before.items())
    assert len(list(folder.iterdir())) == 2 * len(before) - 2


def test_heatmaps_made_with_other_predictions_are_refused(reader, dataset, tmp_path):
    for split in ("test", "val"):
        chosen = find([dataset.folder], split, reader.bundle.card)
        predict_inputs(reader, chosen, tmp_path / f"{split}.csv", heatmaps=split == "test")
    heat = tmp_path / "heatmaps.npy"
    localisation.check_belongs(heat, tmp_path / "test.csv")
    with pytest.raises(PredictionsError, match="different predictions"):
        localisation.check_belongs(heat, tmp_path / "val.csv")


def test_a_dataset_split_otherwise_than_the_models_is_warned_of(
    reader, dataset, phantoms, tmp_path
):
    card = reader.bundle.card
    assert leakage(find([dataset.folder], "test", card), card) is None
    other = prepare(phantoms, tmp_path / "other", size=32, split="patient", seed=7)
    warning = leakage(find([other.folder], "test", card), card)
    assert warning is not None
    assert "another split" in warning
    of_two = {**card.trained_on.policies, "own": {}}  # trained on this data set and on another
    more = card.trained_on.model_copy(update={"source": "phantoms + own", "policies": of_two})
    several = card.model_copy(update={"trained_on": more})
    assert leakage(find([other.folder], "test", several), several) is not None
