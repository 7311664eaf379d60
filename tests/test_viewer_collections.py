"""The viewer takes folders and ZIP archives, hostile ones too, and lists many radiographs."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from viewer_parts import CHROMIUM, planted, settle

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

DONE = ", ".join(f"#list li[data-state={state}]" for state in ("read", "refused", "unread"))


@pytest.fixture(scope="module")
def reader(run: Path):
    return planted(run)


def archive(path: Path, names: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in names.items():
            file.writestr(name, data)
    return path


def wait_for(page, count: int) -> None:
    page.locator(DONE).nth(count - 1).wait_for()
    settle(page)


def names(page) -> list[str]:
    return page.locator("#list .name").all_inner_texts()


def test_a_zip_is_unpacked_in_the_browser_and_other_files_are_counted(page, radiographs, tmp_path):
    made = archive(
        tmp_path / "study.zip",
        {
            "study/2.png": radiographs["b"].read_bytes(),
            "study/10.png": radiographs["a"].read_bytes(),
            "study/refused.png": radiographs["refused"].read_bytes(),
            "study/notes.txt": b"notes",
            "study/report.pdf": b"%PDF-1.7",
            "DICOMDIR": b"\0" * 128 + b"DICM" + b"1.2.840.10008.1.3.10",
        },
    )
    page.set_input_files("#file", made)
    wait_for(page, 3)
    assert names(page) == ["study/2.png", "study/10.png", "study/refused.png"]
    assert page.locator("#added").inner_text() == "3 radiographs added, 3 other files skipped."
    assert page.locator("#counts").inner_text() == "3 radiographs · 2 read · 1 refused"
    refused = page.locator("#list li[data-state=refused]")
    assert refused.locator(".reason").inner_text() == "The radiograph is rotated."
    page.locator("#filter").select_option("trouble")
    assert page.locator("#list li:visible").count() == 1
    page.locator("#remove-all").click()
    assert page.locator("#list li").count() == 0
    assert page.locator("#empty").is_visible()


def test_a_folder_is_taken_whether_chosen_or_dropped(page, radiographs, tmp_path):
    folder = tmp_path / "export"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "1.png").write_bytes(radiographs["a"].read_bytes())
    (folder / "2").write_bytes(radiographs["b"].read_bytes())  # without a suffix
    (folder / "readme.txt").write_text("not a radiograph")
    archive(folder / "more.zip", {"3.png": radiographs["a"].read_bytes()})
    page.set_input_files("#folder", folder)
    wait_for(page, 3)
    assert sorted(names(page)) == ["3.png", "er/1.png", "export/2"]
    assert "1 other file skipped" in page.locator("#added").inner_text()
    page.locator("#remove-all").click()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 500, "y": 300, "data": data})
    wait_for(page, 3)
    assert sorted(names(page)) == ["3.png", "er/1.png", "export/2"]


def test_hostile_names_are_harmless_and_the_number_is_limited(page, radiographs, tmp_path):
    image = radiographs["a"].read_bytes()
    hostile = [
        "../../etc/passwd.png",
        "/abs.png",
        "<img src=x onerror=alert(1)>.png",
        "\u202egnp.exe",
    ]
    page.set_input_files("#file", archive(tmp_path / "bad.zip", dict.fromkeys(hostile, image)))
    wait_for(page, 4)
    shown = names(page)
    assert "etc/passwd.png" in shown
    assert "·gnp.exe" in shown, "a name cannot be written backwards"
    assert page.locator("#list img").count() == 0
    found, problems = page.evaluate(
        """async () => {
          const { collect } = await import("/static/file_collection.js");
          const png = Uint8Array.of(0x89, 0x50, 0x4e, 0x47);
          const folder = Array.from({ length: 1003 }, (_, i) => new File([png], `${i}.png`));
          const { found, problems } = await collect({ folder });
          return [found.length, problems];
        }"""
    )
    assert found == 1000
    assert problems == ["At most 1000 are added at once; 3 were left out."]
    assert page.locator("#list li[data-state=read]").count() == 4


def corrupted(data: bytes, name: str, **fields: int) -> bytes:
    """Change fields of an entry in the directory of an archive."""
    places = {
        "flags": (8, "H"),
        "method": (10, "H"),
        "crc": (16, "I"),
        "size": (24, "I"),
        "at": (42, "I"),
    }
    body = bytearray(data)
    entry = body.rindex(name.encode()) - 46
    for field, value in fields.items():
        place, form = places[field]
        struct.pack_into(f"<{form}", body, entry + place, value)
    return bytes(body)


def test_a_damaged_encrypted_or_exploding_archive_is_reported_and_costs_nothing(
    page, radiographs, tmp_path
):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", radiographs["a"].read_bytes())
        file.writestr("z.png", radiographs["b"].read_bytes())
    good = buffer.getvalue()
    cases = {
        "encrypted": corrupted(good, "a.png", flags=1),
        "bzip2": corrupted(good, "a.png", method=12),
        "checksum": corrupted(good, "a.png", crc=1),
        "larger": corrupted(good, "a.png", size=600),
        "offset": corrupted(good, "a.png", at=2**31),
        "huge": corrupted(good, "a.png", size=2**31),
    }
    for name, data in cases.items():
        (tmp_path / f"{name}.zip").write_bytes(data)
    page.set_input_files("#file", [tmp_path / f"{name}.zip" for name in cases])
    wait_for(page, 2 * len(cases))
    states = page.locator("#list li").evaluate_all("all => all.map(one => one.dataset.state)")
    assert states == ["unread", "read"] * len(cases), "one bad file spoils no other"
    reasons = page.locator("#list .reason:not(:empty)").all_inner_texts()
    for reason, word in zip(
        reasons,
        ("encrypted", "method 12", "damaged", "damaged", "damaged", "larger than 256 MB"),
        strict=True,
    ):
        assert word in reason
    page.locator("#remove-all").click()
    for name, data in (("cut", good[:-30]), ("zip64", good[:-12] + b"\xff" * 10 + b"\0\0")):
        (tmp_path / f"{name}.zip").write_bytes(data)
        page.set_input_files("#file", tmp_path / f"{name}.zip")
        page.locator("#added", has_text=f"{name}.zip: ").wait_for()
    assert page.locator("#list li").count() == 0


@pytest.mark.slow
def test_two_hundred_radiographs_are_listed_read_and_stay_usable(page, radiographs, tmp_path):
    image = radiographs["a"].read_bytes()
    made = archive(tmp_path / "many.zip", {f"{number}.png": image for number in range(200)})
    page.set_input_files("#file", made)
    page.locator("#counts", has_text="done").wait_for()
    page.locator("#counts", has_text="200 radiographs · 200 read").wait_for(timeout=200_000)
    assert page.locator("#bar-read").is_hidden()
    seconds = page.evaluate(
        """async () => {
          const start = performance.now();
          for (let i = 0; i < 50; i++) {
            document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "]", bubbles: true }));
          }
          await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
          return (performance.now() - start) / 1000;
        }"""
    )
    assert seconds < 10  # a fraction of a second where the machine is idle
    assert page.locator("[aria-current=true] .name").inner_text() == "50.png"
