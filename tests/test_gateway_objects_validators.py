from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from chestxray.reading.reader import Reader, Reading
from chestxray.serving.result_objects import codes
from gateway_parts import tool
from result_objects import HEADERS, SETS, film, items, made, make, reader_of, reading, refusal


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return reader_of(run)


def dciodvfy(path: Path) -> list[str]:
    """The errors that dicom3tools' verifier finds."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is not there: install Debian's dicom3tools")
    told = subprocess.run([tool, path], capture_output=True, text=True, timeout=60, check=False)
    lines = (told.stdout + told.stderr).splitlines()
    assert any(line in {"SCImage", "Comprehensive3DSR", "Segmentation"} for line in lines), lines
    return [line for line in lines if line.startswith(("Error", "Abort"))]


def pixelmed(path: Path) -> list[str]:
    """What PixelMed's validator of structured reports finds fault with.

    Its templates are older than the coded evaluations of TID 1501, which it warns of.
    """
    java, jar = shutil.which("java"), Path("/usr/share/java/pixelmed.jar")
    if java is None or not jar.exists():
        pytest.skip("PixelMed is not there: install default-jre-headless and libpixelmed-java")
    limits = (f"-Djdk.xml.xpath{name}Limit=0" for name in ("ExprOp", "TotalOp", "ExprGrp"))
    command = [java, "-XX:TieredStopAtLevel=1", *limits, "-cp", f"{jar.parent}/*"]
    command += ["com.pixelmed.validate.DicomSRValidator", "-checkcontentitemorder", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lines = told.stdout.splitlines()
    heads = ("Found ", "Root Template Validation Complete", "IOD validation complete")
    assert "Found Root Template TID_1500 (MeasurementReport)" in lines, told.stderr
    assert heads[-1] in lines
    newer = f'CODE ({codes.CALLED.value},{codes.SCHEME},"{codes.CALLED.meaning}")'
    return [line for line in lines if not line.startswith(heads) and newer not in line]


def files(folder: Path, path: Path, reader: Reader, said: Reading | None = None) -> dict[str, Path]:
    """All six objects of an image as files, by kind."""
    out = {}
    for prefix, outcome in (("", said or reading()), ("refused ", refusal(path))):
        for result in make(path, outcome, reader):
            out[prefix + result.kind] = folder / f"{prefix}{result.kind}.dcm"
            out[prefix + result.kind].write_bytes(result.content)
    assert len(out) == 6
    return out


@pytest.mark.parametrize(
    ("header", "photometric"),
    [("DX", "MONOCHROME1"), ("CR", "MONOCHROME1"), *((name, "MONOCHROME2") for name in HEADERS)],
)
def test_dciodvfy_finds_no_error(header, photometric, tmp_path, reader):
    path = film(tmp_path, photometric, **HEADERS[header])
    for kind, result in files(tmp_path, path, reader).items():
        assert dciodvfy(result) == [], kind


def test_dciodvfy_finds_no_error_in_results_of_real_files(real, tmp_path, reader):
    for path in sorted((real / "dicom").glob("*.dcm")):
        for kind, result in files(tmp_path, path, reader).items():
            assert dciodvfy(result) == [], (path.name, kind)


def test_dciodvfy_would_find_an_error(tmp_path, reader):
    capture = made(film(tmp_path), reading(), reader)["sc"]
    del capture.BitsStored
    capture.save_as(tmp_path / "broken.dcm")
    assert dciodvfy(tmp_path / "broken.dcm")


def test_dcmtk_decodes_the_picture_as_it_was_drawn(tmp_path, reader):
    path, decoded = film(tmp_path), tmp_path / "decoded.dcm"
    (plain,) = make(path, reading(), reader, {"sc"}, compressed=False)
    drawn = dcmread(io.BytesIO(plain.content)).pixel_array
    command = [tool("dcmdjpeg"), files(tmp_path, path, reader)["sc"], decoded]
    subprocess.run(command, check=True, timeout=60)
    assert np.abs(dcmread(decoded).pixel_array.astype(int) - drawn).mean() < 2


@pytest.mark.parametrize("kind", ["sr", pytest.param("regions", marks=pytest.mark.slow)])
def test_pixelmed_finds_no_error(kind, tmp_path, reader):
    path = film(tmp_path, **HEADERS["Japanese"])
    assert pixelmed(files(tmp_path, path, reader)[kind]) == []


def of_set(name: str, folder: Path, run: Path) -> dict[str, Path]:
    """All six objects of a model with other findings, all of which are called."""
    findings = SETS[name]
    reader = reader_of(run, dict.fromkeys(findings, 0.2))
    path = film(folder, **HEADERS["German"])
    return files(folder, path, reader, reading(findings, findings=findings))


@pytest.mark.parametrize("name", SETS)
def test_dciodvfy_finds_no_error_with_any_findings(name, tmp_path, run):
    for kind, result in of_set(name, tmp_path, run).items():
        assert dciodvfy(result) == [], kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sr", "regions"])
@pytest.mark.parametrize("name", ["five", pytest.param("forty", marks=pytest.mark.slow)])
def test_pixelmed_finds_no_error_with_any_findings(name, kind, tmp_path, run):
    assert pixelmed(of_set(name, tmp_path, run)[kind]) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sr", "regions", "refused sr"])
@pytest.mark.parametrize("header", HEADERS)
def test_pixelmed_finds_no_error_with_any_header(header, kind, tmp_path, reader):
    path = film(tmp_path, **HEADERS[header])
    assert pixelmed(files(tmp_path, path, reader)[kind]) == []


@pytest.mark.slow
def test_pixelmed_would_find_an_error(tmp_path, reader):
    report = made(film(tmp_path), reading(), reader)["sr"]
    (device,) = items(report, "Device Observer UID")
    report.ContentSequence.remove(device)
    report.save_as(tmp_path / "broken.dcm")
    assert pixelmed(tmp_path / "broken.dcm")
