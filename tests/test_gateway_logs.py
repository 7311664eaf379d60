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
        timeout=300,
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_unreachable_destination_is_logged_once(lines: list[dict]) -> None:
    [line] = lines
    assert (line["event"], line["level"]) == ("unreachable", "warning")
    assert line["message"].startswith("the association with PACS at 127.0.0.1:")


# A peer that is refused 1000 times, another one once, and an image that is received each time.
REPEATED = """
import logging, time
from chestxray.serving.gateway import logs

logs._INTERVAL = 0.5
logs.set_up()
started = time.monotonic()
log = logging.getLogger("chestxray.serving.gateway.receiver")
for number in range(1000):
    peer = {"event": "rejected", "source": f"TITLE{number}", "address": "10.0.0.1"}
    log.warning("association rejected: %s", "it calls another title", extra=peer)
    logging.getLogger("pynetdicom.dul").error("error %d", number)
    if number % 100 == 0:
        log.info("image received", extra={"event": "received", "uid": f"1.2.{number}"})
log.warning("association rejected", extra={"event": "rejected", "address": "10.0.0.2"})
while logging.getLogger().handlers[0]._held:
    time.sleep(0.1)
print(time.monotonic() - started)
logs._INTERVAL = 600
log.warning("association rejected", extra={"event": "rejected", "address": "10.0.0.1"})
for number in range(10_000):
    log.warning("connection failed", extra={"event": "connection-failed", "source": str(number)})
"""


def test_a_repeated_line_is_written_once_with_its_number() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPEATED], check=True, capture_output=True, timeout=300
    )
    said = [json.loads(line) for line in done.stderr.splitlines()]
    rejected = [
        (line["address"], line.get("repeated", 0))
        for line in said
        if line.get("event") == "rejected"
    ]
    assert sum(count or 1 for address, count in rejected if address == "10.0.0.1") == 1001
    most = 4 + float(done.stdout) / 0.5  # it is slow on a busy machine
    assert 3 <= len([one for one in rejected if one[0] == "10.0.0.1"]) <= most
    assert [one for one in rejected if one[0] == "10.0.0.2"] == [("10.0.0.2", 0)]
    assert sum(line.get("event") == "received" for line in said) == 10
    assert sum(line["message"].startswith("message of pynetdicom") for line in said) <= most
    assert sum(line.get("event") == "connection-failed" for line in said) <= 257
