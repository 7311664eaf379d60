from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from chestxray.dataset import pixels
from chestxray.errors import Notice, RefusedError
from chestxray.reading.overlay import blend
from chestxray.reading.reader import Reader
from chestxray.serving.result_objects import drawing
from chestxray.serving.result_objects import secondary_capture as picture
from chestxray.serving.result_objects.instance import Model
from chestxray.sources.nih import FINDINGS
from result_objects import CALLED, SETS, THRESHOLDS, film, made, reader_of, reading, refusal


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return reader_of(run)


@pytest.fixture(scope="module")
def model(reader: Reader) -> Model:
    return Model.of(reader)


def test_a_refusal_shows_the_plain_film_and_claims_no_chest(tmp_path, reader):
    path = film(tmp_path, BodyPartExamined="KNEE", Laterality="L")
    capture = made(path, refusal(path), reader)["sc"]
    assert (capture.BodyPartExamined, capture.Laterality) == ("KNEE", "L")
    top, left, side = (
        round(picture.SCALE * length) for length in (picture._TOP, picture._MARGIN, picture._MAIN)
    )
    shown = capture.pixel_array[top:, left:][:side, :side]
    whole = pixels.canonical(pixels.decode(path), picture._MAIN)
    plain = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - plain[..., None]).mean() < 2, "nothing is drawn over it"


def test_heat_lies_where_the_heatmap_is_hot_and_nowhere_else(model):
    heat = np.zeros((8, 8), np.float32)
    heat[6, 1] = 1
    image = np.full((400, 400), 90, np.uint8)
    drawn = picture.draw(image, model, reading(heat=heat), THRESHOLDS)
    side = picture._PAIR
    plain, main = pair(drawn)
    rows, columns = np.nonzero(np.ptp(main, axis=2))
    assert (rows.min(), rows.max()) == pytest.approx((5.5 / 8 * side, 7.5 / 8 * side), abs=11)
    assert (columns.min(), columns.max()) == pytest.approx((0.5 / 8 * side, 2.5 / 8 * side), abs=11)
    assert (plain == 90).all()


def pair(drawn):
    """The radiograph and the overlay beside it, of the same size."""
    side = picture._PAIR
    lefts = (picture._MARGIN, picture._MARGIN + side + picture._BETWEEN)
    return [drawn[picture._TOP :, left:][:side, :side].astype(int) for left in lefts]


def test_a_call_without_localised_evidence_says_so_in_the_picture(model):
    """In the warning's colour, below the overlay and nowhere else in the foot."""
    image = np.full((64, 64), 90, np.uint8)
    inked = []
    for heat in (np.eye(7), np.full((7, 7), 0.9), 0.1 * np.eye(7)):
        drawn = picture.draw(image, model, reading(heat=heat.astype(np.float32)), THRESHOLDS)
        foot = drawn[picture._TOP + picture._PAIR :, : picture._COLUMN - 20]
        inked.append(int(np.all(foot == (255, 194, 74), axis=2).sum()))
    assert inked[0] == 0
    assert min(inked[1:]) > 200


def test_the_lung_stays_visible_under_the_hottest_place_of_the_picture(model):
    """Contrast of a texture under full heat, against that of the radiograph beside it."""
    image = np.random.default_rng(0).integers(60, 180, (picture._PAIR,) * 2, dtype=np.uint8)
    heat = np.zeros((5, 5), np.float32)
    heat[1:4, 1:4] = 1.3
    shown = pair(picture.draw(image, model, reading(heat=heat), THRESHOLDS))
    plain, hot = (each[250:420, 250:420].mean(axis=2).std() for each in shown)
    assert hot > 0.85 * plain


def test_called_findings_stand_out_in_the_table(model):
    image = np.zeros((64, 64), np.uint8)
    counts = []
    for called in ((), ("Effusion",), CALLED):
        outcome = dataclasses.replace(reading(called=called), warnings=())
        drawn = picture.draw(image, model, outcome, THRESHOLDS)
        table = drawn[picture._TOP :, picture._COLUMN - 20 :]
        counts.append(int(np.all(table == (255, 194, 74), axis=2).sum()))
    assert counts[0] == 0 < counts[1] < counts[2]


@pytest.mark.parametrize(("called", "said"), [((), True), (CALLED, False)])
def test_where_nothing_is_called_the_picture_says_that_this_rules_nothing_out(called, said, model):
    calls = {finding: finding in called for finding in FINDINGS}  # every finding is assessed
    outcome = dataclasses.replace(reading(called=called), warnings=(), calls=calls)
    drawn = picture.draw(np.zeros((64, 64), np.uint8), model, outcome, THRESHOLDS)
    below = drawn[
        picture._TOP + 22 + 14 * drawing._ROOMY.height + 12 : picture._BOTTOM, picture._COLUMN :
    ]
    assert (below != below[-1, -1]).any() == said


def test_long_sentences_stay_within_the_picture(model):
    image = np.zeros((64, 64), np.uint8)
    endless = [f"{'long ' * n}{'w' * 10 * n}" for n in range(1, 30)]
    warned = tuple(Notice("c", text) for text in endless)
    read = dataclasses.replace(reading(), warnings=warned)
    refused = RefusedError("film", [Notice("c", text, {}, refuses=True) for text in endless])
    dark = (16, 17, 20)
    for outcome in (read, refused):
        drawn = picture.draw(image, model, outcome, THRESHOLDS)
        assert np.all(drawn[:, -16:] == dark)
        assert np.all(drawn[-10:] == dark)


def test_wrapped_text_loses_no_letter_and_no_line_is_too_long():
    style = drawing.Style(20)
    text = "a few words and aVeryLongWordThatFitsInNoLineOfThisWidth at the end"
    lines = drawing._wrapped(text, 120, style, 99)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(drawing._width(line, style) <= 120 for line in lines)
    assert drawing._wrapped(text, 120, style, 2)[1].endswith("…")


def test_findings_are_in_the_order_of_the_viewer_by_log_odds_above_the_threshold():
    said = dataclasses.replace(
        reading(), probabilities={"Mass": 0.9, "Edema": 0.06, "Hernia": 0.99}
    )
    order = drawing._ranked(said, {"Mass": 0.45, "Edema": 0.02, "Hernia": None})
    assert order == ["Mass", "Edema", "Hernia"]  # though 0.06 is three times 0.02


def test_called_findings_come_first():
    thresholds = dict.fromkeys(FINDINGS, 0.5) | {"Mass": 0.1, "Hernia": None}
    order = drawing._ranked(reading(), thresholds)
    assert order[:2] == ["Mass", "Effusion"]
    assert order[-1] == "Hernia"
    assert drawing.relevant(reading(), thresholds, 1) == ["Mass"]
    assert drawing.relevant(reading(called=()), thresholds, 3) == ["Mass"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (0, "0.0 %"),
        (1e-9, "<0.1 %"),
        (0.0005, "0.1 %"),
        (0.1234, "12.3 %"),
        (0.99949, "99.9 %"),
        (0.9999, ">99.9 %"),
        (1, "100.0 %"),
    ],
)
def test_no_probability_is_rounded_to_certainty(value, text):
    assert drawing.percent(value) == text


@pytest.mark.parametrize(
    ("probability", "threshold", "written"),
    [
        (0.4998, 0.5, ("49.98 %", "50.00 %")),
        (0.49999, 0.5, ("49.999 %", "50.000 %")),
        (0.4, 0.5, ("40.0 %", "50.0 %")),
        (0.5, 0.5, ("50.0 %", "50.0 %")),
        (0.0002, 0.0003, ("0.02 %", "0.03 %")),
        (0.9997, 0.9999, ("99.97 %", "99.99 %")),
        (0.00001, 0.000001, ("0.001 %", "<0.001 %")),
        (0.5, None, ("50.0 %", "none")),
    ],
)
def test_a_probability_is_told_from_its_threshold(probability, threshold, written):
    assert drawing._percentages(probability, threshold) == written


def test_figures_of_more_digits_stay_in_their_columns():
    column, finding = picture._column(), "Pleural Thickening"
    room = drawing._EDGES[0] * column.width - drawing._width(finding, drawing.Style(23, bold=True))
    for digits in ("50.00 %", "50.000 %", ">99.9 %", ">99.999 %"):
        for style, most in (
            (drawing.Style(23, bold=True), room),
            (drawing.Style(22), (drawing._EDGES[1] - drawing._EDGES[0]) * column.width),
        ):
            assert drawing._width(digits, drawing._narrowed(digits, style)) < most - 5


def ink(drawn, left, right):
    """Rows of the table's height that have ink between two shares of the column's width."""
    column = picture._column()
    edges = [column.left + round(share * column.width) for share in (left, right)]
    part = drawn[picture._TOP + 30 : picture._BOTTOM, edges[0] : edges[1]].astype(int)
    return (part.max(axis=2) > 60).any(axis=1)


@pytest.mark.parametrize("name", SETS)
def test_every_number_of_findings_has_its_layout(name, model):
    findings = SETS[name]
    said = dataclasses.replace(reading((), findings=findings), warnings=())
    drawn = picture.draw(np.zeros((64, 64), np.uint8), model, said, dict.fromkeys(findings, 0.5))
    thresholds = ink(drawn, drawing._EDGES[0] + 0.06, drawing._EDGES[1] - 0.001)
    rows = int(np.count_nonzero(np.diff(thresholds.astype(int)) == 1))
    listed = {"one": 1, "five": 5, "forty": drawing._DENSE.listed}[name]
    rest = {"one": 2, "five": 2, "forty": 3}[
        name
    ]  # lines of text below the table; Hernia is not assessed
    assert listed <= rows <= listed + rest
    assert np.all(drawn[:, -16:] == (16, 17, 20))


def test_findings_that_are_not_listed_are_counted_with_their_calls():
    findings = SETS["forty"]
    said = reading(findings[:20], findings=findings)
    order = drawing._ranked(said, dict.fromkeys(findings, 0.5))
    assert set(order[:20]) == set(findings[:20])
    assert (
        drawing._hidden(order[17:], said) == "and 23 more findings in the report, 3 of them called"
    )
    assert drawing._hidden(order[20:], said).endswith(
        "20 more findings in the report, none of them called"
    )


@pytest.mark.parametrize("number", [1, 14, 18, 40])
def test_the_longest_name_stays_in_its_column(number, model):
    findings = [f"{n:02} " + "Wide name " * 6 for n in range(number)]
    said = dataclasses.replace(reading(findings, findings=findings), warnings=())
    drawn = picture.draw(np.zeros((64, 64), np.uint8), model, said, dict.fromkeys(findings, 0.5))
    column = picture._column()
    figure = drawing._width("90.0 %", drawing.Style(23 if number <= 14 else 20, bold=True))
    end = column.left + round(drawing._EDGES[0] * column.width - figure)
    table = drawn[picture._TOP + 30 : picture._TOP + 60, end - 12 : end - 2].astype(int)
    assert table.max() < 60, "a gap before the probability"


def test_a_caption_is_shortened_by_its_name_and_keeps_its_figure():
    style = drawing.Style(25, bold=True)
    line, used = drawing.fitted("Wide name " * 6, " 90.0 %, called", 500, style, 17)
    assert line.endswith("… 90.0 %, called")
    assert used.size == 17
    assert drawing._width(line, used) <= 500
    assert drawing.fitted("Mass", " 90.0 %", 500, style, 17) == ("Mass 90.0 %", style)


def test_heat_is_laid_on_as_everywhere_else(model):
    side, chance = picture._PAIR, np.random.default_rng(0)
    image = chance.integers(0, 256, (side, side), dtype=np.uint8)
    heat = 1.4 * chance.random((7, 7), dtype=np.float32)
    radiograph, main = pair(picture.draw(image, model, reading(heat=heat), THRESHOLDS))
    assert np.array_equal(main, blend(radiograph[..., 0].astype(np.uint8), heat))


def test_a_film_is_reduced_nearly_as_by_its_areas(model):
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 1.5)  # about as sharp as films of this size are
    radiograph, _ = pair(picture.draw(image, model, reading(), THRESHOLDS))
    by_area = cv2.resize(image, (picture._PAIR,) * 2, interpolation=cv2.INTER_AREA).astype(int)
    difference = np.abs(radiograph[..., 0] - by_area)
    assert difference.mean() < 0.1 * by_area.std()


def test_a_film_of_the_picture_s_size_is_shown_pixel_by_pixel(model, tmp_path):
    side = picture._MAIN
    image = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    drawn = picture.draw(image, model, refusal(tmp_path), THRESHOLDS)
    shown = drawn[picture._TOP :, picture._MARGIN :][:side, :side]
    assert np.array_equal(shown, np.repeat(image[..., None], 3, axis=2))


def test_nothing_of_one_picture_is_left_in_the_next(model, tmp_path):
    image = np.zeros((64, 64), np.uint8)
    outcomes = [reading(), refusal(tmp_path), reading(called=())]
    first = [picture.draw(image, model, outcome, THRESHOLDS) for outcome in outcomes]
    again = [picture.draw(image, model, outcome, THRESHOLDS) for outcome in reversed(outcomes)]
    for drawn, other in zip(first, reversed(again), strict=True):
        assert np.array_equal(drawn, other)


def test_what_refuses_stands_above_what_warns(model):
    warns, refuses = Notice("w", "a warning"), Notice("r", "a reason", {}, refuses=True)
    image = np.zeros((64, 64), np.uint8)
    orders = ([warns, refuses, warns], [refuses, warns, warns])
    one, other = (
        picture.draw(image, model, RefusedError("film", order), THRESHOLDS) for order in orders
    )
    assert np.array_equal(one, other)


@pytest.mark.parametrize("probability", [0.9999, 0.5, 1.0])
def test_the_longest_caption_stays_below_its_overlay(probability, model):
    finding = "Pleural_Thickening"
    said = dataclasses.replace(
        reading(),
        probabilities=dict.fromkeys(FINDINGS, 0.1) | {finding: probability},
        calls=dict.fromkeys(FINDINGS, None),
    )
    thresholds = dict.fromkeys(FINDINGS) | {finding: 0.9}
    drawn = picture.draw(np.zeros((64, 64), np.uint8), model, said, thresholds)
    foot = drawn[picture._TOP + picture._PAIR : picture._BELOW, : picture._COLUMN - 20]
    inked = np.flatnonzero((foot != foot[0, 0]).any(axis=(0, 2)))
    gaps = [int(gap) for gap in np.diff(inked) if gap > 40]
    assert len(gaps) == 1  # between the two captions
    assert inked[-1] < picture._MARGIN + 2 * picture._PAIR + picture._BETWEEN
