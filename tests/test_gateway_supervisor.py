"""What is checked before the gateway starts, and what its processes import."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import trustme

from chestxray.errors import ArtifactError, ConfigError, MissingExtraError
from chestxray.model import model_card as card
from chestxray.model.exported import EXPORT
from chestxray.serving.gateway import processes
from chestxray.serving.gateway.store import VERSION, Store
from chestxray.serving.gateway.supervisor import _check_state, check
from gateway_parts import certificates, config, radiograph, written_to


def test_an_export_is_found_beside_the_configuration(
    tmp_path: Path, run: Path, exported: Path
) -> None:
    (tmp_path / "read-by").symlink_to(exported)
    settings = config(tmp_path, '[read]\nengine = "read-by"\n')
    assert settings.read.engine == str(tmp_path / "read-by")
    assert check(settings, run / "bundle") == card.read(run / "bundle").identity


def test_a_rule_with_a_finding_that_the_bundle_does_not_have_stops_the_start(
    tmp_path: Path, run: Path
) -> None:
    to = '[[destinations]]\nname = "x"\nkind = "stow"\nurl = "http://x"\n'
    settings = config(tmp_path, to + 'rules = [{findings = ["Pacemaker"]}]\n')
    with pytest.raises(ConfigError, match=r"rules\[0\]\.findings: .* does not have 'Pacemaker'"):
        check(settings, run / "bundle")


def test_a_missing_export_is_told_by_its_key_before_anything_starts(
    tmp_path: Path, run: Path
) -> None:
    settings = config(tmp_path, '[read]\nengine = "nowhere"\n')
    with pytest.raises(ConfigError, match=r"^read\.engine: .*nowhere is not an engine"):
        check(settings, run / "bundle")


def test_an_export_of_another_model_is_refused(tmp_path: Path, run: Path, exported: Path) -> None:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = json.loads((tmp_path / EXPORT).read_text()) | {"model": "another-0123"}
    (tmp_path / EXPORT).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"read\.engine: .* is an export of another-0123"):
        processes.load_model(run / "bundle", str(tmp_path), None)


def test_an_engine_that_is_not_installed_is_told_by_its_key(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise MissingExtraError("openvino", "export")

    monkeypatch.setattr("chestxray.reading.reader.load", missing)
    with pytest.raises(ConfigError, match=r"^read\.engine: openvino is not installed"):
        processes.load_model(run / "bundle", "openvino", None)


# One image is taken in and read, its results are written; then the worker is told to stop.
WORKER = """
import sys, threading, time
from pathlib import Path
from chestxray.serving.gateway import config, logs, processes, statistics
from chestxray.serving.gateway.intake import Intake
from chestxray.serving.gateway.store import READ, Store

settings = config.load(Path(sys.argv[1]))
Intake(Store(settings.state), settings.storage).accept(sys.argv[3], Path(sys.argv[4]).read_bytes(),
                                                     "SENDER", "DX")
logs.set_up()
stop = threading.Event()

def watch():
    store = Store(settings.state)
    while statistics.counts(store.db)[READ]["queued"]:
        time.sleep(0.1)
    stop.set()

threading.Thread(target=watch).start()
processes.run_worker(stop, settings, Path(sys.argv[2]), 0)
print(statistics.counts(Store(settings.state).db)[READ]["done"], "torch" in sys.modules)
"""


@pytest.mark.slow
def test_a_worker_that_reads_by_an_export_imports_no_torch(
    tmp_path: Path, run: Path, exported: Path, phantoms: Path
) -> None:
    config(tmp_path, f'[read]\nengine = "{exported}"\n')
    film = cv2.imread(str(next(phantoms.rglob("*.png"))), cv2.IMREAD_GRAYSCALE)
    image = radiograph(stored=film.astype(np.uint16) * 16)
    file = written_to(tmp_path / "film.dcm", image)
    arguments = [tmp_path / "gateway.toml", run / "bundle", image.SOPInstanceUID, file]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["1", "False"]
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in said] == ["ready", "read"]
    assert "OpenVINO" in said[0]["message"]


@pytest.mark.parametrize("missing", ["certificate", "key", "authority"])
def test_a_missing_tls_file_is_told_by_its_key_and_name(
    tmp_path: Path, run: Path, missing: str
) -> None:
    files = certificates(tmp_path, "gateway", trustme.CA())
    lines = [f'{key} = "{path}"' for key, path in files]
    settings = config(tmp_path, f"[receive.tls]\n{chr(10).join(lines)}\n")
    path = getattr(files, missing)
    path.unlink()
    with pytest.raises(ConfigError) as caught:
        check(settings, run / "bundle")
    assert str(caught.value) == f"receive.tls.{missing}: {path}: No such file or directory"


def test_a_key_of_another_certificate_is_told(tmp_path: Path, run: Path) -> None:
    authority = trustme.CA()
    files, other = (certificates(tmp_path, name, authority) for name in ("ours", "other"))
    lines = [f'{key} = "{path}"' for key, path in files] + [f'key = "{other.key}"']
    settings = config(tmp_path, f"[receive.tls]\n{chr(10).join([lines[0], *lines[2:]])}\n")
    with pytest.raises(ConfigError, match=r"^receive\.tls: .* do not match \("):
        check(settings, run / "bundle")


@pytest.mark.parametrize("starting", [True, False])
def test_check_refuses_a_database_of_a_later_version_and_leaves_it(
    tmp_path: Path, run: Path, starting: bool
) -> None:
    settings = config(tmp_path)
    made = Store(settings.state)
    made.db.execute(f"PRAGMA user_version = {VERSION + 1}")
    made.close()
    with pytest.raises(ArtifactError, match=f"has tables of version {VERSION + 1}"):
        check(settings, run / "bundle", starting=starting)
    with closing(sqlite3.connect(settings.state / "queue.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == VERSION + 1
        db.execute(f"PRAGMA user_version = {VERSION - 1}")  # an earlier one is migrated by `run`
    _check_state(settings.state)


def test_a_state_that_cannot_be_made_is_told_by_its_key(tmp_path: Path, run: Path) -> None:
    settings = config(tmp_path)
    settings.state.write_text("a file")
    with pytest.raises(ConfigError, match=r"^state: .*/state: (File exists|Not a directory)"):
        check(settings, run / "bundle")
