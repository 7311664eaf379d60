"""The viewer's tools: heatmap, ruler, comparison, patient header, forced readings, printed page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from chestxray.serving.admission import Limits
from chestxray.serving.web import create_app
from dicom_files import dicom
from viewer_parts import (
    CHROMIUM,
    add,
    heat,
    opened,
    pages_of,
    picture,
    planted,
    settle,
)
from web_server import ready

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

JANE = {"PatientName": "Doe^Jane", "PatientID": "A-1", "PatientBirthDate": "19610203"}
JOHN = {"PatientName": "Roe^John", "PatientID": "B-2"}
SIDE = 2500  # pixels of a large radiograph, shown at 2048


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[httpx.Client]:
    app = create_app(planted(run), Limits(decoders=1), allow_force=True)
    with ready(app) as client:
        yield client


@pytest.fixture(scope="module")
def radiographs(
    radiographs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Besides the usual ones, DICOM files: three of Jane, of which one is large, one of John."""
    folder = tmp_path_factory.mktemp("dicom")
    made = dict(radiographs)
    grey = {name: cv2.imread(str(made[name]), cv2.IMREAD_GRAYSCALE) for name in "ab"}
    large = cv2.resize(grey["a"], (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    spaced = {"ImagerPixelSpacing": [0.14, 0.14], "ViewPosition": "PA"}
    for name, image, header in (
        ("jane", grey["a"], JANE | {"StudyDate": "20230506"}),
        ("jane-before", grey["b"], JANE | {"StudyDate": "20220318"}),
        ("john", grey["b"], JOHN | {"StudyDate": "20230101"}),
        ("large", large, JANE | {"StudyDate": "20230507"}),
    ):
        made[name] = folder / f"{name}.dcm"
        made[name].write_bytes(dicom(image, 8, **spaced, **header))
    return made


def status(page) -> str:
    return page.locator("#status").inner_text()


def canvas_of(page, selector: str = "#viewport") -> dict[str, float]:
    return page.locator(selector).bounding_box()


def inside(page) -> np.ndarray:
    """The pixels of the image area without its edges, which may be shared with what is beside."""
    return picture(page)[4:-4, 4:-4]


def coloured(page) -> int:
    return int((np.ptp(inside(page), axis=2) > 30).sum())


# --- heatmap ------------------------------------------------------------------------------------


def test_the_heatmap_is_off_at_first_and_one_key_goes_to_contours_and_colours(page, radiographs):
    add(page, radiographs["a"])
    page.locator("[data-finding=Nodule] button").click()
    shown = []
    for mode in ("off", "contours", "colours", "off"):
        assert page.locator(f"#heat-{mode}").get_attribute("aria-pressed") == "true"
        shown.append(inside(page))
        page.keyboard.press("h")
    colour = [np.ptp(each, axis=2) for each in shown]
    assert colour[0].max() == colour[3].max() == 0, "the radiograph alone"
    line, veil = colour[1] > 30, colour[2] > 8
    assert line.sum() > 200
    assert veil.sum() > 2 * line.sum()
    aside = cv2.dilate(line.astype(np.uint8), np.ones((9, 9))) == 0
    assert (shown[1][aside] == shown[0][aside]).all(), "contours leave all other pixels as they are"


# --- ruler --------------------------------------------------------------------------------------


def test_a_length_is_in_mm_of_the_file_whatever_the_picture_and_the_zoom(page, radiographs):
    add(page, radiographs["large"])
    before = canvas_of(page)
    page.keyboard.press("m")
    box = canvas_of(page)
    assert box == before, "a tool moves no radiograph"
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for zoom, clicks in ((1, False), (1.25, True)):
        page.mouse.move(x - 60, y - 80)
        page.mouse.down()
        if clicks:
            page.mouse.up()
        page.mouse.move(x + 60, y + 80, steps=3)
        if clicks:
            page.mouse.down()
        page.mouse.up()
        said = re.fullmatch(r"Length: ([\d.]+) mm at the detector\.", status(page))
        pixels = 200 / (zoom * min(box["width"], box["height"]) / SIDE)
        assert float(said[1]) == pytest.approx(0.14 * pixels, rel=0.01)
        page.keyboard.press("+")
    assert "At the detector" in page.locator("#length-note").inner_text()
    assert coloured(page) > 200
    page.keyboard.press("Escape")
    assert status(page) == "All lengths deleted."
    assert coloured(page) == 0


def test_without_spacing_a_length_is_in_pixels_and_the_keyboard_can_measure(page, radiographs):
    add(page, radiographs["a"], radiographs["b"])
    page.locator("#viewport").focus()
    page.keyboard.press("m")
    page.keyboard.press("Enter")  # the cursor, in the middle
    page.keyboard.press("Enter")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    box = canvas_of(page)
    expected = 81 / (min(box["width"], box["height"]) / 256)
    assert status(page) == f"Length: {expected:.0f} px."
    assert "No pixel spacing" in page.locator("#length-note").inner_text()
    page.locator(".radiograph").nth(1).click()
    page.locator("#name", has_text=radiographs["b"].name).wait_for()
    settle(page)
    assert coloured(page) == 0, "lengths stay with their radiograph"
    page.locator(".radiograph").nth(0).click()
    page.locator("#name", has_text=radiographs["a"].name).wait_for()
    page.locator("#viewport").focus()
    page.keyboard.press("Delete")
    assert status(page) == "Length deleted."


def test_the_label_of_a_length_lies_within_the_pane_wherever_the_length_ends(page):
    """The pane is a part of a larger canvas, on which a label beyond its edges would show."""
    beyond = """async ([wide, high, a, b]) => {
      const { drawLength } = await import("/static/ruler.js");
      const context = new OffscreenCanvas(wide + 800, high + 800).getContext("2d", {
        willReadFrequently: true,
      });
      context.translate(400, 400);
      const text = "95.4 mm at the detector";
      const pane = { width: wide, height: high };
      drawLength(context, { x: a[0], y: a[1] }, { x: b[0], y: b[1] }, text, pane);
      const painted = (...box) =>
        context.getImageData(...box).data.filter((value, i) => i % 4 === 3 && value).length;
      const within = painted(400, 400, wide, high);
      return [within, painted(0, 0, wide + 800, high + 800) - within];
    }"""
    centre = page.evaluate(beyond, [350, 550, [50, 275], [100, 275]])
    assert centre[0] > 2000
    assert centre[1] == 0
    for pane, a, b in (
        ((350, 550), (20, 300), (330, 300)),
        ((350, 550), (20, 540), (330, 540)),
        ((350, 550), (330, 10), (330, 540)),
        ((350, 550), (20, 10), (60, 10)),
        ((350, 550), (20, 540), (60, 540)),
        ((350, 60), (20, 30), (330, 30)),
        ((120, 550), (20, 300), (100, 300)),
    ):
        within, out = page.evaluate(beyond, [*pane, a, b])
        assert out == 0, (pane, a, b)
        assert within > 1000, "line and label"
    for at in (-300, 650):  # panned away
        within, _ = page.evaluate(beyond, [350, 550, [50, at], [100, at]])
        assert within == 0, "no label stays without its line"


def test_a_length_says_where_its_spacing_holds(page):
    """Rows 0.2 mm, columns 0.1 mm; the picture has a quarter of the file's pixels."""
    for plane, text in (
        ("patient", "14.0 mm"),
        ("detector", "14.0 mm at the detector"),
        ("unknown", "14.0 mm (nominal)"),
    ):
        spacing = {"row": 0.2, "column": 0.1, "plane": plane}
        file = {"width": 400, "height": 400, "spacing": spacing}
        said = page.evaluate(
            """async (image) => {
              const { lengthText } = await import("/static/ruler.js");
              return lengthText({ x: 10, y: 20 }, { x: 31, y: 34 }, image);
            }""",
            {"width": 100, "height": 100, "file": file},
        )
        assert said == text  # 84 columns of 0.1 mm, 56 rows of 0.2 mm


# --- comparison ---------------------------------------------------------------------------------


def test_a_prior_radiograph_of_the_same_patient_is_offered_first_and_follows_the_zoom(
    page, radiographs
):
    add(page, radiographs["jane"], radiographs["john"], radiographs["jane-before"])
    page.keyboard.press("c")
    settle(page)
    groups = page.locator("#prior-choice optgroup")
    labels = [group.get_attribute("label") for group in groups.all()]
    assert labels == ["Same patient", "Other patients"]
    chosen = page.locator("#prior-choice option:checked").inner_text()
    assert chosen == "2022-03-18 · jane-before.dcm"
    assert page.locator("#prior-date").inner_text() == "2022-03-18 · 414 days earlier"
    assert page.locator("#date").inner_text() == "2023-05-06"
    assert page.locator("#prior-warning").is_hidden()

    def views() -> list[str]:
        settle(page)
        settle(page)
        return [page.locator(at).inner_text() for at in ("#readout", "#prior-readout")]

    page.locator("#prior-viewport").wait_for()
    page.locator("#prior-readout", has_text="W ").wait_for()
    before = views()
    page.keyboard.press("+")
    after = views()
    assert after[0] != before[0]
    assert after[0] == after[1], "both have the same size and zoom"
    page.locator("#link-zoom").uncheck()
    page.keyboard.press("+")
    apart = views()
    assert apart[0] != after[0]
    assert apart[1] == after[1]
    page.locator("#link-window").check()
    page.locator("#viewport").focus()
    page.keyboard.press("Shift+ArrowRight")
    assert all(view.startswith("W 263 ") for view in views())
    page.locator("#prior-close").click()
    assert page.locator("#prior").is_hidden()


def test_a_radiograph_that_is_not_of_the_same_patient_is_compared_with_a_warning(page, radiographs):
    add(page, radiographs["jane"], radiographs["john"], radiographs["a"])
    page.keyboard.press("c")
    assert page.locator("#prior-choice").input_value() == "", "nothing is chosen by itself"
    alarm = page.locator("#prior-warning")
    assert alarm.is_hidden()
    unnamed = radiographs["a"].name
    for name, warning in (("john.dcm", "Another patient"), (unnamed, "Patient not confirmed")):
        option = page.locator("#prior-choice option", has_text=name)
        page.locator("#prior-choice").select_option(option.get_attribute("value"))
        alarm.wait_for()
        assert alarm.inner_text().startswith(warning)


def test_an_id_that_two_scanners_gave_to_different_names_is_not_one_patient(
    page, radiographs, tmp_path
):
    grey = cv2.imread(str(radiographs["b"]), cv2.IMREAD_GRAYSCALE)
    made = []
    for name, sex in (("Doe^Jane", "F"), ("Roe^Ann", "F"), ("Doe^Jane", "M"), ("DOE^JANE", "")):
        header = {"PatientID": "0", "PatientName": name, "PatientSex": sex}
        made.append(tmp_path / f"{len(made)}.dcm")
        made[-1].write_bytes(dicom(grey, 8, **header))
    add(page, *made)
    page.keyboard.press("c")
    groups = page.locator("#prior-choice optgroup").evaluate_all(
        "all => all.map(group => [group.label, ...[...group.children].map(each => each.text)])"
    )
    assert groups == [
        ["Same patient", "3.dcm"],
        ["Patient not confirmed", "1.dcm"],
        ["Other patients", "2.dcm"],
    ]
    assert page.locator("#prior-choice option:checked").inner_text() == "3.dcm"
    page.locator("#prior-choice").select_option(label="1.dcm")
    page.locator("#prior-warning").wait_for()
    assert page.locator("#prior-warning").inner_text().endswith("but different names.")
    assert not re.search("Jane|JANE|Roe", page.content())


def test_a_prior_that_is_read_anyway_has_its_warning_in_the_picture_at_once(page, radiographs):
    add(page, radiographs["a"], radiographs["refused"])
    held = []

    def hold(route) -> None:
        held.append(route)

    page.route("**/v1/read*", hold)
    page.locator(".radiograph").nth(1).click()
    with page.expect_request("**/v1/read*"):
        page.get_by_role("button", name="Read anyway").click()
    page.locator(".radiograph").nth(0).click()
    page.locator("#name", has_text=radiographs["a"].name).wait_for()
    page.keyboard.press("c")
    page.locator("#prior-choice").select_option(label="refused.png")

    def red() -> int:
        settle(page)
        data = page.locator("#prior-viewport").screenshot()
        shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
        inner = shown[4:-4, 4:-4]  # without the edge of the warning above it
        return int((inner[..., 0] - inner[..., 1] > 60).sum())

    page.locator("#prior-readout", has_text="W ").wait_for()
    assert red() == 0
    assert page.locator("#prior-date").inner_text().endswith("refused"), "it is being read"
    held[0].continue_()
    page.locator("#list li[data-state=read]").nth(1).wait_for()
    settle(page)
    assert red() > 200
    assert page.locator("#prior-date").inner_text().endswith("refused")


def test_only_equal_ids_that_nothing_contradicts_are_the_same_patient(page):
    for first, second, whose in (
        ({"id": "1"}, {"id": "1"}, "same"),
        ({"id": "1"}, {"id": "2"}, "other"),
        ({"id": "1", "issuer": "A"}, {"id": "1", "issuer": "B"}, "other"),
        ({"id": "1", "birthDate": "1961-02-03"}, {"id": "1", "birthDate": "1961-03-02"}, "other"),
        ({"id": "1", "sex": "F"}, {"id": "1", "sex": "M"}, "other"),
        ({"id": "1", "sex": "F"}, {"id": "1", "sex": ""}, "same"),
        ({"id": "1", "names": ["DOE JANE"]}, {"id": "1", "names": ["ROE JANE"]}, "unknown"),
        ({"id": "1", "names": ["DOE JANE"]}, {"id": "1", "names": []}, "same"),
        ({"id": "1", "names": ["SATO KEN", "佐藤 健"]}, {"id": "1", "names": ["佐藤 健"]}, "same"),
        (
            {"id": "1", "names": ["DOE JANE"], "sex": "F"},
            {"id": "1", "names": ["ROE JOHN"], "sex": "M"},
            "other",
        ),
        ({"id": "1"}, {"id": ""}, "unknown"),
        ({"id": ""}, {"id": ""}, "unknown"),
        ({"id": "1"}, None, "unknown"),
    ):
        found = page.evaluate(
            """async (pair) => (await import("/static/comparison.js")).relation(...pair)""",
            [first, second],
        )
        assert found == whose, (first, second)


def test_spellings_of_one_name_agree_and_names_do_not(page):
    def names(name: str) -> list[str]:
        data = dicom(
            np.zeros((8, 8), np.uint8), 8, SpecificCharacterSet="ISO_IR 192", PatientName=name
        )
        return page.evaluate(
            """async (bytes) => {
              const { identityOf } = await import("/static/patient.js");
              return (await identityOf(new Blob([Uint8Array.from(bytes)]))).names;
            }""",
            list(data),
        )

    one = [names(each) for each in ("Núñez^Ana-María", "NUNEZ^ANA MARIA", "nuñez ana^maria^^^")]
    assert one == [["NUNEZ ANA MARIA"]] * 3
    assert names("Sato^Ken=佐藤^健=さとう^けん") == ["SATO KEN", "佐藤 健", "さとう けん"]
    assert names("がき^=") != names("かき^="), "the mark makes another letter"
    assert names("") == []


# --- patient header -----------------------------------------------------------------------------


def test_the_patient_header_is_shown_on_demand_only_and_gone_when_closed(page, radiographs, caplog):
    caplog.set_level("DEBUG")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    add(page, radiographs["jane"], radiographs["a"])
    assert "Jane" not in page.content()
    answered = len(asked)
    page.keyboard.press("d")
    page.locator("#patient dd").first.wait_for()
    shown = page.locator("#patient").inner_text()
    assert all(text in shown for text in ("Doe, Jane", "A-1", "1961-02-03", "2023-05-06"))
    assert len(asked) == answered, "the server is not asked"
    page.keyboard.press("]")
    page.locator("#patient dd", has_text="no patient header").wait_for()
    page.keyboard.press("[")
    page.locator("#patient dd", has_text="Doe, Jane").wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#patient").is_hidden()
    assert "Jane" not in page.content()
    assert not re.search("Jane|Doe|A-1", caplog.text + " ".join(asked) + page.url)
    stored = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert "Jane" not in stored


def test_names_in_the_character_sets_of_the_standard_are_read_as_pydicom_reads_them(page):
    from pydicom import dcmread
    from pydicom.data import get_charset_files

    checked = 0
    for path in map(Path, get_charset_files("chr*.dcm")):
        file = dcmread(path)
        expected = str(file.get("PatientName", ""))
        if not expected or path.stem == "chrSQEncoding1":
            continue
        shown = page.evaluate(
            """async (bytes) => {
              const { readHeader } = await import("/static/dicom_header.js");
              const header = await readHeader(new Blob([Uint8Array.from(bytes)]));
              return header.name;
            }""",
            list(path.read_bytes()),
        )
        words = re.sub(r"[\^=]+", " ", expected).split()
        assert sorted(re.sub(r"[,·]", " ", shown).split()) == sorted(words), path.name
        checked += 1
    assert checked >= 12


# --- forced readings ----------------------------------------------------------------------------


def test_a_refused_radiograph_is_read_anyway_with_the_warning_burned_into_the_picture(
    page, radiographs
):
    add(page, radiographs["refused"])
    plain = inside(page)
    assert page.locator("#result").is_hidden()
    page.get_by_role("button", name="Read anyway").click()
    page.locator("#list li[data-state=read]").wait_for()
    page.locator("#result").wait_for()
    assert "refused, read anyway" in page.locator("#list").inner_text()
    assert "do not rely" in page.locator("#forced").inner_text()
    assert page.locator("#warnings .refusal").count() == 1
    shown = inside(page)
    box = shown.shape[0], shown.shape[1]
    red = (shown[..., 0] - shown[..., 1]) > 60
    assert np.ptp(plain, axis=2).max() < 40
    rows, columns = np.nonzero(red)
    side = min(box)
    left = (box[1] - side) / 2
    assert rows.min() < 0.1 * side
    assert rows.max() > box[0] - 0.1 * side
    assert columns.min() > left + 0.15 * side, "the corners stay free for the side markers"
    assert columns.max() < left + 0.85 * side
    page.keyboard.press("i")
    inverted = inside(page)
    assert ((inverted[..., 0] - inverted[..., 1]) > 60).sum() > 0.8 * red.sum()


def test_no_message_covers_a_corner_of_the_radiograph(page, radiographs):
    add(page, radiographs["a"], radiographs["refused"])
    for key in "cd":
        page.keyboard.press(key)
    for width, place in ((1280, 0), (1280, 1), (390, 1), (390, 0)):
        page.set_viewport_size({"width": width, "height": 844})
        page.locator(".radiograph").nth(place).click()
        settle(page)
        covered = page.evaluate(
            """() => {
              const canvas = document.querySelector("#viewport");
              canvas.scrollIntoView({ block: "center" });
              const box = canvas.getBoundingClientRect();
              const places = [[4, 4], [box.width - 4, 4], [4, box.height - 4],
                              [box.width - 4, box.height - 4], [box.width / 2, 4]];
              return places.map(([x, y]) => document.elementFromPoint(box.x + x, box.y + y).id);
            }"""
        )
        assert covered == ["viewport"] * 5, (width, place)


# --- printed summary ----------------------------------------------------------------------------


def test_the_printed_summary_is_one_page_of_a4_and_of_letter(page, radiographs):
    add(page, radiographs["refused"], radiographs["jane"])
    page.get_by_role("button", name="Read anyway").click()
    page.locator("#result").wait_for()
    page.locator("[data-finding=Nodule] button").click()
    heat(page, "contours")
    check_printout(page, forced=True)
    page.locator(".radiograph").nth(1).click()
    page.locator("#forced").wait_for(state="hidden")
    settle(page)
    check_printout(page, forced=False)


def check_printout(page, *, forced: bool) -> None:
    for paper in ("A4", "Letter"):
        assert pages_of(page.pdf(format=paper)) == 1
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    text = page.locator("#print").inner_text()
    assert page.locator("main").is_hidden()
    for needed in ("Research use only", "heatmap of Nodule", "Hernia", "rotated", "Model "):
        assert needed in text
    assert page.locator("#print .findings p").count() == 14
    assert ("read anyway" in text) == forced
    assert "Jane" not in text, "the patient is printed only while the header is shown"
    drawn = page.locator("#print canvas").evaluate(
        """(canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let coloured = 0;
          for (let i = 0; i < data.length; i += 4) coloured += data[i] - data[i + 2] > 30;
          return coloured;
        }"""
    )
    assert drawn > 100, "contours"
    page.emulate_media(media="null")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#print").inner_text() == ""


# --- accessibility ------------------------------------------------------------------------------


@pytest.mark.slow
def test_axe_finds_no_barrier_in_the_tools(browser, service, radiographs):
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    size = {"width": 1024, "height": 900}
    with opened(browser, service, viewport=size, bypass_csp=True) as page:
        page.evaluate(axe)

        def check() -> None:
            settle(page)
            found = page.evaluate("axe.run()")["violations"]
            assert [f"{v['id']}: {v['nodes'][0]['html']}" for v in found] == []

        add(page, radiographs["jane"], radiographs["john"], radiographs["refused"])
        heat(page, "contours")
        for key in "mdc":
            page.keyboard.press(key)
        page.locator("#prior-choice").select_option(index=1)
        page.locator("#patient dd").first.wait_for()
        check()
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        check()
        page.locator(".radiograph").nth(2).click()
        page.get_by_role("button", name="Read anyway").click()
        page.locator("#forced").wait_for()
        check()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        check()
