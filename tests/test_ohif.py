"""OHIF, the viewer of many PACS, opens a study with the gateway's results in it."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import ComputedRadiographyImageStorage

import ohif_site
from dicom_files import written
from gateway_parts import Gateway, Orthanc, config, free_port, running, wait_for
from viewer_parts import CHROMIUM

FILM = "dicom/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"
"""A real radiograph of modality CR, whose file states the class of a secondary capture."""


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
        film = dcmread(real / FILM)
        film.SOPClassUID = film.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
        httpx.post(f"{pacs.url}/instances", content=written(film)).raise_for_status()
        wait_for(lambda: len(pacs.instances()) == 3, 300)
        with ohif_site.ohif(pacs.url) as address, ohif_site.chromium() as browser:
            page = ohif_site.opened(browser, address, film.StudyInstanceUID)
            shown = [ohif_site.choose(page, modality) for modality in ("CR", "OT")]
            for name, png in zip(("radiograph", "result"), shown, strict=True):
                (tmp_path / f"{name}.png").write_bytes(png)
            assert page.get_by_text("SR", exact=True).count() >= 1
    first, second = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int) for png in shown)
    assert np.ptp(first, axis=2).max() < 60, "a radiograph is grey"
    assert first.std() > 20, "and not empty"
    assert (np.ptp(second, axis=2) > 60).mean() > 0.001, "the result has a heatmap or a colour"
