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
from chestxray.model import bundle
from chestxray.model.export import export
from chestxray.model.exported import noise
from conftest import REPOSITORY

GUIDE = (REPOSITORY / "docs/export.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("pixels", [(300, 200), (20, 30)])
def test_the_guides_program_answers_as_the_reader(run: Path, phantoms: Path, tmp_path, pixels):
    export(bundle.load(run / "bundle"), tmp_path / "exported", "onnx", "fp32", noise(32))
    image = cv2.imread(str(next(phantoms.rglob("*.png"))), cv2.IMREAD_GRAYSCALE)
    image = cv2.resize(image, pixels)
    cv2.imwrite(str(tmp_path / "radiograph.png"), image)

    [program] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )

    ours = chestxray.load(run / "bundle", "torch").read(image, force=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(ours.probabilities)
    for finding, probability, called, heat in rows:
        assert float(probability) == pytest.approx(ours.probabilities[finding], abs=1e-5)
        assert (called == "True") == bool(ours.calls[finding])
        assert float(heat) == pytest.approx(ours.heatmaps[finding].max(), abs=1e-4)
