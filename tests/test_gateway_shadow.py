"""A shadow that fails: the gateway it belongs to reads, sends and is well."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest

from chestxray.errors import ConfigError
from chestxray.serving.gateway import supervisor
from gateway_parts import Gateway, Orthanc, config, free_port, radiograph, running, store, wait_for


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("failing", [True, False])
def test_a_shadow_neither_delays_nor_fails_the_first(
    tmp_path: Path, run: Path, exported: Path, failing: bool
) -> None:
    """A bundle that cannot be loaded, and one that reads, beside a first that reads.

    The second takes long where something else is busy: the shadow waits for that, too.
    """
    port, metrics = free_port(), free_port()
    pacs = Orthanc(tmp_path / "orthanc", port)
    bundle = tmp_path / "gone" if failing else run / "bundle"
    to = '[[destinations]]\nname = "pacs"\nkind = "dicom"\nae_title = "PACS"\n'
    to += f'host = "127.0.0.1"\nport = {pacs.port}\n'
    text = f'[metrics]\nport = {metrics}\n[read]\nengine = "{exported}"\n'
    config(tmp_path, f'{text}[shadow]\nbundle = "{bundle}"\nengine = "{exported}"\n{to}', port=port)
    gateway = Gateway(tmp_path, run / "bundle")

    def deaths() -> int:
        return sum(
            line.get("event") == "process-died" and line["message"].startswith("shadow")
            for line in gateway.log()
        )

    with running(pacs, gateway):
        for number in range(3):
            assert store(radiograph(number), port) == 0
        wait_for(lambda: len(pacs.instances()) == 6, 300)
        if failing:
            wait_for(deaths, 120)
            time.sleep(15)
            assert deaths() <= 2, "it is started again at growing intervals"
        else:
            wait_for(lambda: "3 read, 0 waiting" in gateway.ask("report"), 1800, every=5)
            shadow = gateway.members()["shadow"]
            assert os.sched_getscheduler(shadow) == os.SCHED_IDLE
            assert Path(f"/proc/{shadow}/oom_score_adj").read_text().strip() == "1000"
            assert "median" in gateway.ask("report")
        assert len(pacs.instances()) == 6
        assert httpx.get(f"http://127.0.0.1:{metrics}/health", timeout=60).status_code == 200
        status = gateway.ask("status")
        assert "problem" not in status
        assert ("shadow: it died" in status) == failing
        started = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - started < 30, "a stop does not wait for the shadow"


def test_check_says_that_the_bundle_of_the_shadow_is_missing(
    tmp_path: Path, run: Path, exported: Path
) -> None:
    text = f'[read]\nengine = "{exported}"\n[shadow]\nbundle = "gone"\n'
    settings = config(tmp_path, text)
    with pytest.raises(ConfigError, match=r"shadow: .*gone"):
        supervisor.check(settings, run / "bundle", starting=False)
    assert not settings.state.exists(), "and it has made nothing"
