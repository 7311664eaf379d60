from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytest.importorskip("onnxruntime", reason="needs the export extra")
pytest.importorskip("onnx", reason="needs the export extra")

import chestxray
from chestxray.evaluation.calibration import Calibration
from chestxray.evaluation.calibrators import Logistic
from chestxray.model import bundle
from chestxray.model.export import export
from chestxray.model.parity import noise
from conftest import REPOSITORY

GUIDE = (REPOSITORY / "docs/export.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def calibrated_for_a_site(folder: Path, out: Path) -> Path:
    """The same bundle with a further calibration."""
    given = bundle.load(folder)
    line = Logistic(family="platt", slope=1.3, offset=-0.7)
    site = Calibration(calibrators=dict.fromkeys(given.card.findings, line))
    after = given.card.calibration.followed_by(site)
    card = given.card.model_copy(update={"calibration": after})
    bundle.save(out, given.classifier, card, given.detector)
    return out


@pytest.mark.parametrize(("pixels", "site"), [((300, 200), False), ((20, 30), True)])
def test_the_guides_program_answers_as_the_reader(
    run: Path, phantoms: Path, tmp_path, pixels, site
):
    folder = calibrated_for_a_site(run / "bundle", tmp_path / "site") if site else run / "bundle"
    export(bundle.load(folder), tmp_path / "exported", "onnx", "fp32", noise(32))
    image = cv2.imread(str(next(phantoms.rglob("*.png"))), cv2.IMREAD_GRAYSCALE)
    image = cv2.resize(image, pixels)
    cv2.imwrite(str(tmp_path / "radiograph.png"), image)

    program, _ = PROGRAMS
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )

    ours = chestxray.load(folder, "torch").read(image, force=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(ours.probabilities)
    for finding, probability, called, heat in rows:
        assert float(probability) == pytest.approx(ours.probabilities[finding], abs=1e-5)
        assert (called == "True") == bool(ours.calls[finding])
        assert float(heat) == pytest.approx(ours.heatmaps[finding].max(), abs=1e-4)
