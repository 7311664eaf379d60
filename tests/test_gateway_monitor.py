"""The monitor: health, anchors outside, and a gateway that halts when its database is damaged."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from chestxray.serving.gateway import anchors, backups, endpoint, health, monitor
from chestxray.serving.gateway.anchors import Anchor
from chestxray.serving.gateway.config import Audit
from chestxray.serving.gateway.health import ProcessRecord
from chestxray.serving.gateway.monitor import Monitor
from chestxray.serving.gateway.store import Store
from gateway_parts import (
    Gateway,
    add,
    config,
    damage_page,
    free_port,
    radiograph,
    remove_database,
    running,
    store,
    wait_for,
)


class Collector:
    """A service elsewhere that keeps the anchors that are posted to it."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[str | None, dict]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if owner.status == 200:
                    owner.got.append((self.headers["Authorization"], json.loads(body)))
                self.send_response(owner.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/anchors"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@contextlib.contextmanager
def answering(answer: bytes, drip: bytes = b"") -> Iterator[str]:
    """A service that answers one request, then sends a little every 0.2 s; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as peer:
                peer.recv(2**16)
                peer.sendall(answer)
                while drip and not stop.wait(0.2):
                    peer.sendall(drip)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/anchors"
        stop.set()
        thread.join(60)


@pytest.fixture
def dripping() -> Iterator[str]:
    with answering(b"HTTP/1.1 200 Doe^John\r\nX-Slow: ", b"x") as url:
        yield url


@pytest.fixture
def syslog() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(20)
        yield made


def watched(folder: Path, text: str = "") -> Monitor:
    made = Monitor(config(folder, text))
    Store(folder / "state").close()
    return made


def test_each_entry_is_anchored_within_one_round_and_a_backup_is_made(tmp_path: Path) -> None:
    watcher = watched(tmp_path)
    with closing(Store(tmp_path / "state")) as opened:
        watcher.run_once()
        add(opened, "1.1", "1.2")
        watcher.run_once()
        watcher.run_once()
    lines = (tmp_path / "state" / anchors.FILE).read_text().splitlines()
    assert [anchor.number for anchor in anchors.valid(lines)] == [0, 1, 3]
    assert len(list((tmp_path / "state" / backups.FOLDER).iterdir())) == 1
    assert watcher.problems() == []


def test_anchors_go_to_syslog_and_to_a_url_once_each(
    tmp_path: Path, collector: Collector, syslog: socket.socket
) -> None:
    text = (
        f'[audit]\nsyslog = "127.0.0.1:{syslog.getsockname()[1]}"\nurl = "{collector.url}"\n'
        'headers = { Authorization = "Bearer t" }\n'
    )
    (tmp_path / "gateway.toml").touch(0o600)
    watcher = watched(tmp_path, text)
    watcher.run_once()
    with closing(Store(tmp_path / "state")) as opened:
        add(opened, "1.1")
        watcher.run_once()
        watcher.run_once()
    assert [(token, anchor["number"]) for token, anchor in collector.got] == [
        ("Bearer t", 1),
        ("Bearer t", 2),
    ]
    messages = [syslog.recv(2000).decode() for _ in range(2)]
    assert all(message.startswith("<109>chestxray-gateway: audit anchor {") for message in messages)
    told = [(anchor.number, anchor.link) for anchor in anchors.valid(messages)]
    assert told == [(anchor["number"], anchor["link"]) for _, anchor in collector.got]
    assert watcher.problems() == []


def test_a_place_that_does_not_take_anchors_is_a_problem_until_it_has_the_newest(
    collector: Collector, tmp_path: Path
) -> None:
    outside = monitor._OutsideAnchors(Audit(url=collector.url, syslog=str(tmp_path / "log")))
    collector.status = 503
    outside.offer(Anchor.now(1, "aa"))
    assert len(outside.problems()) == 2
    assert "audit.url: the anchor could not be sent" in " ".join(outside.problems())
    outside.offer(Anchor.now(2, "bb"))
    collector.status = 200
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        outside.offer(anchor := Anchor.now(3, "cc"))
        outside.offer(anchor)
        assert b'"number": 3' in log.recv(1000)
        log.setblocking(False)
        with pytest.raises(BlockingIOError):
            log.recv(1000)
    assert outside.problems() == []
    assert [anchor["number"] for _, anchor in collector.got] == [3]


def test_a_place_for_anchors_that_drips_its_answer_does_not_hold_the_monitor_up(
    tmp_path: Path, dripping: str
) -> None:
    watcher = watched(tmp_path, f'[audit]\nurl = "{dripping}"\n')
    once = threading.Thread(target=watcher.run_once, daemon=True)
    once.start()
    once.join(60)
    assert not once.is_alive()
    (problem,) = watcher.problems()
    assert "audit.url: the anchor could not be sent: the answer takes too long" in problem
    assert "Doe" not in problem


def test_what_a_place_for_anchors_answers_is_quoted_in_no_problem() -> None:
    with answering(b"HTTP/1.1 500 Doe^John\r\nContent-Length: 0\r\n\r\n") as url:
        outside = monitor._OutsideAnchors(Audit(url=url))
        outside.offer(Anchor.now(1, "aa"))
    assert outside.problems() == [
        "audit.url: the anchor could not be sent: the service answered 500"
    ]


def test_a_full_disk_is_a_problem_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watched(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("chestxray.serving.gateway.monitor.anchors.append", full)
        watcher.run_once()
    assert "cannot be anchored or backed up: [Errno 28] No space left" in watcher.problems()[0]
    watcher.run_once()
    assert watcher.problems() == []


# --- status and the health endpoint ---------------------------------------------------------------


def test_a_process_that_dies_again_and_again_is_a_problem(tmp_path: Path) -> None:
    record = ProcessRecord(tmp_path)
    for _ in range(2):
        record.died("worker-0")
        record.died("sender-pacs")
    assert list(health.problems(tmp_path)) == []
    record.died("worker-0")
    said = "worker-0 died 3 times within ten minutes: see the log"
    assert list(health.problems(tmp_path)) == [said]
    assert list(health.status_lines(tmp_path)) == ["gateway: not running", f"problem: {said}"]
    ProcessRecord(tmp_path)  # the next start
    assert list(health.problems(tmp_path)) == []


@contextlib.contextmanager
def served(problems: list[str]) -> Iterator[int]:
    monitoring = endpoint.Endpoint(
        "127.0.0.1", 0, {"/health": lambda: endpoint.health(lambda: problems)}
    )
    monitoring.start()
    try:
        yield monitoring.port
    finally:
        monitoring.stop()


def test_the_health_endpoint_answers_503_with_the_problems() -> None:
    with served(["halted: the disk is damaged"]) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/health?x=1")
    assert answer.status_code == 503
    assert answer.json() == {"status": "failing", "problems": ["halted: the disk is damaged"]}


# --- the whole gateway ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_damaged_page_halts_the_gateway_until_a_backup_is_restored(
    tmp_path: Path, run: Path, exported: Path
) -> None:
    port = free_port()
    config(tmp_path, f'[read]\nengine = "{exported}"\n[metrics]\nport = {port}\n')
    gateway = Gateway(tmp_path, run / "bundle")
    state, receives = gateway.config.state, gateway.config.receive.port

    def asked(path: str) -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20)
        return None

    def healthy() -> bool:
        answer = asked("/health")
        return answer is not None and answer.status_code == 200

    with running(gateway):
        wait_for(healthy, 60)
        assert "chestxray_gateway_healthy 1.0" in asked("/metrics").text
        assert store(radiograph(1), receives) == 0
        wait_for(lambda: gateway.counts()["read"]["done"] == 1, 120)
        wait_for(lambda: [*state.glob("backups/queue-*")], 60)
        assert "gateway: running\nread: 0 queued, 1 done" in gateway.ask("status")
        damage_page(state, "tasks")
        assert store(radiograph(2), receives) != 0
        wait_for(lambda: not healthy(), 60)
        wait_for(lambda: "halted" in str(asked("/health").json()["problems"]), 60)
        wait_for(lambda: set(gateway.members()) == {"monitor"}, 60)
        (problem,) = asked("/health").json()["problems"]
        assert problem.startswith(f"halted: {state / 'queue.sqlite'} is damaged: ")
        assert "chestxray gateway restore" in problem
        assert "chestxray_gateway_healthy 0.0" in asked("/metrics").text
        for what in ("status", "dead", "export-audit"):
            said = gateway.complaint(what)
            assert f"{state / 'queue.sqlite'} is damaged: " in said
            assert "Traceback" not in said
        time.sleep(3)
        deaths = [line for line in gateway.log() if line.get("event") == "process-died"]
        assert len(deaths) <= 3, "no crash loop"
        assert [line["level"] for line in gateway.log() if line.get("event") == "halted"] == [
            "critical"
        ]
        assert gateway.stop() == 1
        assert "is damaged" in gateway.complaint(*gateway.run_command())
        assert "is the database" in gateway.ask("restore")
        assert "problem" not in gateway.ask("status")
        gateway.start()
        assert store(radiograph(2), receives) == 0
        # The one that was not acknowledged may have been on the disk already.
        wait_for(lambda: gateway.counts()["read"]["done"] in (2, 3), 120)
        wait_for(lambda: gateway.counts()["read"]["queued"] == 0, 120)
        gateway.ask("export-audit")
        assert gateway.stop() == 0


@pytest.mark.slow
def test_a_database_that_is_deleted_under_it_ends_a_gateway_without_health_endpoint(
    tmp_path: Path, run: Path, exported: Path
) -> None:
    config(tmp_path, f'[read]\nengine = "{exported}"\n')
    gateway = Gateway(tmp_path, run / "bundle")
    state = gateway.config.state
    with running(gateway):
        wait_for((state / anchors.FILE).exists, 60)
        with closing(sqlite3.connect(state / "queue.sqlite")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        remove_database(state)
        assert gateway._process.wait(60) == 1
        last = gateway.text().splitlines()[-1]
        assert last.startswith(f"chestxray: {state / 'queue.sqlite'} is missing, but audit-anchors")
        assert "is missing" in gateway.complaint("status")
