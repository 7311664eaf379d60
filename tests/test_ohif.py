"""OHIF, the viewer of many PACS, opens a study with the gateway's results in it."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

import ohif_site
from gateway_parts import Gateway, Orthanc, config, free_port, running, tool, wait_for
from viewer_parts import CHROMIUM

FILM = "dicom/highdicom_dx_image.dcm"
"""A real DX radiograph, MONOCHROME1."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_study_with_the_gateway_s_results_opens_in_ohif(real, run, exported, tmp_path):
    port = free_port()
    pacs = Orthanc(tmp_path / "orthanc", port, route=True)
    text = f'[read]\nengine = "{exported}"\n[[destinations]]\nname = "pacs"\nkind = "dicom"\n'
    text += f'ae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
    config(tmp_path, text, port=port, allow=["PACS"])
    with running(pacs, Gateway(tmp_path, run / "bundle")):
        where = ["-aet", "SENDER", "-aec", "PACS", "127.0.0.1", str(pacs.port)]
        subprocess.run([tool("storescu"), *where, str(real / FILM)], check=True, timeout=60)
        wait_for(lambda: len(pacs.instances()) == 3, 300)
        with ohif_site.ohif(pacs.url) as address, ohif_site.chromium() as browser:
            study = dcmread(real / FILM, stop_before_pixels=True).StudyInstanceUID
            page = ohif_site.opened(browser, address, study)
            shown = [ohif_site.choose(page, modality) for modality in ("DX", "OT")]
            for name, png in zip(("radiograph", "result"), shown, strict=True):
                (tmp_path / f"{name}.png").write_bytes(png)
            assert page.get_by_text("SR", exact=True).count() >= 1
    first, second = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int) for png in shown)
    assert np.ptp(first, axis=2).max() < 60, "a radiograph is grey"
    assert first.std() > 20, "and not empty"
    assert (np.ptp(second, axis=2) > 60).mean() > 0.001, "the result has a heatmap or a colour"
