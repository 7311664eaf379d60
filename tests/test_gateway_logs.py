"""The log as an operator reads it: each failure is logged once, in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_parts import config

# One delivery to a destination where nobody listens.
SENDER = """
import sys
from pathlib import Path
from chestxray.serving.gateway import config, logs
from chestxray.serving.gateway.sender import _CStoreTransport, deliver
from chestxray.serving.gateway.store import Image, Result, Store, send_queue

settings = config.load(Path(sys.argv[1]))
logs.set_up()
to = settings.destinations[0]
store = Store(settings.state)
store.add(Image("1.2", "ab", "SENDER", "DX"))
result = Result("1.3", "sr", "cd", [to.name])
store.finish_reading(store.claim("read", 60, 5), "model", [result])
transport = _CStoreTransport(to, "CHESTXRAY")
deliver(store.claim(send_queue(to.name), 60, 5), transport, store, to)
"""


@pytest.fixture
def lines(tmp_path: Path) -> list[dict]:
    config(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SENDER, str(tmp_path / "gateway.toml")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_unreachable_destination_is_logged_once(lines: list[dict]) -> None:
    [line] = lines
    assert (line["event"], line["level"]) == ("unreachable", "warning")
    assert line["message"].startswith("the association with PACS at 127.0.0.1:")
