"""Drift in the gateway: planted changes are found by week, and nobody is named."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest

import chestxray
from chestxray.errors import ConfigError, RefusedError
from chestxray.evaluation.drift import Distribution
from chestxray.reading.reader import Reader
from chestxray.serving.gateway import backups, drift, readings, report, shadow_store
from chestxray.serving.gateway import store as stores
from chestxray.serving.gateway.config import Config, Drift, Storage
from chestxray.serving.gateway.drift import Watched
from chestxray.serving.gateway.drift_metrics import DriftMetrics
from chestxray.serving.gateway.readings import Figures, Week
from chestxray.serving.gateway.retention import Retention
from chestxray.serving.gateway.shadow_store import ShadowStore, shadow_counts, shadow_rows
from chestxray.serving.gateway.store import Store, connect, transaction
from gateway_parts import PATIENT, add, config

MONDAY = dt.datetime(2026, 3, 2, tzinfo=dt.UTC).timestamp()
WEEK = 7 * 86400.0
EFFUSION = Watched("probability", "Effusion")
VALIDATION = Distribution.of(np.random.default_rng(0).beta(2, 8, 600), np.arange(600))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Sets what time it is."""

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: seconds)

    return set_to


@pytest.fixture
def model(store: Store) -> str:
    return remember(store, {"Effusion": VALIDATION.model_dump()})


def remember(store: Store, probabilities: dict, measures: dict | None = None, name="m") -> str:
    """Enter a model of one finding, as if it had read here."""
    described = {
        "findings": ["Effusion"],
        "probabilities": probabilities,
        "measures": measures or {},
    }
    store.db.execute("INSERT INTO models VALUES (?, ?)", (name, json.dumps(described)))
    return name


def note(store: Store, model: str, probabilities: np.ndarray, **more: object) -> None:
    """Write the figures of one radiograph of each of some patients."""
    with transaction(store.db):
        for number, probability in enumerate(probabilities):
            values = {"notices": [], "patient": f"{PATIENT} {number}", "refused": False} | more
            figures = Figures(0.1, probabilities=[probability], calls=[probability > 0.5], **values)
            readings.record(store.db, f"1.{number}", model, figures)


def weeks_of(store: Store, config: Drift = Drift(), count: int = 8) -> list[drift.WeekDrift]:  # noqa: B008
    return list(drift.of_weeks(store.db, config, drift.weeks_until(drift.this_week(), count)))


def test_a_shifted_week_is_found_and_the_weeks_around_it_are_not(
    store: Store, model: str, clock
) -> None:
    draws = np.random.default_rng(1)
    for number, shifted in enumerate((False, False, True, False)):
        clock(MONDAY + number * WEEK + 3600)
        note(store, model, draws.beta(*((4, 6) if shifted else (2, 8)), 200))
    found = weeks_of(store)
    assert [str(one.week) for one in found] == ["2026-W10", "2026-W11", "2026-W12", "2026-W13"]
    assert [one.alarms for one in found] == [(), (), (EFFUSION,), ()]
    assert found[2].shifts[EFFUSION].low > 0.05


def test_a_week_begins_on_monday_and_belongs_to_its_year() -> None:
    assert str(Week.of(MONDAY - 1)) == "2026-W09"
    assert Week.of(MONDAY).start == MONDAY
    assert Week.of(MONDAY).end == MONDAY + WEEK
    assert str(Week.of(dt.datetime(2027, 1, 2, tzinfo=dt.UTC).timestamp())) == "2026-W53"
    assert str(Week.of(dt.datetime(2027, 1, 4, tzinfo=dt.UTC).timestamp()).before) == "2026-W53"


def test_of_each_patient_the_first_radiograph_of_the_week_counts(
    store: Store, model: str, clock
) -> None:
    clock(MONDAY)
    note(store, model, np.full(30, 0.2))
    note(store, model, np.full(30, 0.9))  # of the same patients
    (found,) = weeks_of(store)
    assert (found.radiographs, found.patients) == (60, 30)
    assert found.shifts[EFFUSION].patients == 30
    clock(MONDAY + WEEK)
    note(store, model, np.full(30, 0.9))
    assert weeks_of(store)[1].patients == 30


def test_whose_a_reading_is_cannot_be_found_once_the_week_is_over(
    store: Store, model: str, clock, tmp_path: Path
) -> None:
    clock(MONDAY)
    note(store, model, np.full(2, 0.2))
    first = [row[0] for row in store.db.execute("SELECT patient FROM readings ORDER BY number")]
    (key,) = store.db.execute("SELECT key FROM week_keys").fetchone()
    clock(MONDAY + WEEK)
    note(store, model, np.full(2, 0.2))
    both = [row[0] for row in store.db.execute("SELECT patient FROM readings ORDER BY number")]
    assert len(set(both)) == 4, "the same patient has another hash"
    assert both[:2] == first
    keys = [bytes(row[0]) for row in store.db.execute("SELECT key FROM week_keys")]
    assert len(keys) == 1
    assert bytes(key) not in keys
    store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert PATIENT.encode() not in (tmp_path / "state/queue.sqlite").read_bytes()


def test_a_backup_and_the_database_of_the_next_week_do_not_have_the_key_of_a_week(
    store: Store, model: str, clock
) -> None:
    clock(MONDAY)
    note(store, model, np.full(2, 0.2))
    key = bytes(store.db.execute("SELECT key FROM week_keys").fetchone()[0])
    keeping = Retention(Storage(spare_mib=0, free_mib=0), store)
    keeping.run_once()
    store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database = store.folder / "queue.sqlite"
    assert key in database.read_bytes(), "the week is not over"
    backup = backups.make(store.db, store.folder)
    assert key not in backup.read_bytes()
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT count(*) FROM readings").fetchone()[0] == 2
    clock(MONDAY + WEEK)
    keeping.run_once()
    store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert key not in database.read_bytes(), "though nothing was read in this week"


def test_notices_are_counted_and_compared_with_a_baseline_only(
    store: Store, model: str, clock
) -> None:
    draws = np.random.default_rng(2)
    for number in range(3):
        clock(MONDAY + number * WEEK)
        note(store, model, draws.beta(2, 8, 150), notices=["burned-in"] if number == 2 else [])
    found = weeks_of(store)
    assert [one.notices["burned-in"] for one in found] == [0, 0, 150]
    assert not any(one.alarms for one in found)
    period = [dt.date(2026, 3, 2), dt.date(2026, 3, 8)]
    burned_in = Watched("notice", "burned-in")
    found = weeks_of(store, Drift(baseline=period))
    assert [one.alarms for one in found] == [(), (), (burned_in,)]
    assert found[2].shifts[burned_in].distance == 1


def test_a_baseline_of_the_site_replaces_validation(store: Store, model: str, clock) -> None:
    draws = np.random.default_rng(3)
    for number in range(3):
        clock(MONDAY + number * WEEK)
        note(store, model, draws.beta(6, 4, 300))  # other patients than those of validation
    assert [bool(one.alarms) for one in weeks_of(store)] == [True, True, True]
    period = [dt.date(2026, 3, 2), dt.date(2026, 3, 8)]
    assert not any(one.alarms for one in weeks_of(store, Drift(baseline=period)))


@pytest.mark.parametrize("weeks", [2, 4])
def test_the_same_patients_in_more_weeks_of_a_baseline_make_it_no_more_certain(
    store: Store, model: str, clock, weeks: int
) -> None:
    draws = np.random.default_rng(5)
    baseline = draws.beta(2, 8, 60)
    for number in range(weeks):
        clock(MONDAY + number * WEEK)
        note(store, model, baseline, notices=["burned-in"])
    clock(MONDAY + weeks * WEEK)
    note(store, model, draws.beta(4, 6, 60))
    first = dt.date(2026, 3, 2)
    last = first + dt.timedelta(days=7 * weeks - 1)
    one, all_ = (
        weeks_of(store, Drift(baseline=[first, end]))[-1].shifts
        for end in (first + dt.timedelta(days=6), last)
    )
    for what in (EFFUSION, Watched("notice", "burned-in")):
        assert all_[what] == pytest.approx(one[what], abs=0.01)


def changed_bundle(store: Store, clock) -> None:
    """Two good weeks of one model, then two of another, of which the second is far away."""
    draws = np.random.default_rng(7)
    for name in "mn":
        remember(store, {"Effusion": VALIDATION.model_dump()}, name=name)
    for number, (name, beta) in enumerate((("m", (2, 8)), ("m", (2, 8)), ("n", (8, 2)))):
        clock(MONDAY + number * WEEK)
        note(store, name, draws.beta(*beta, 200), notices=["burned-in"])
    clock(MONDAY + 3 * WEEK)


BASELINE = [dt.date(2026, 3, 2), dt.date(2026, 3, 8)]


def reported(of: Config, store: Store, weeks: int) -> tuple[str, str]:
    """The report as text and as a page."""
    found = report.gather(of, store, weeks)
    page = of.state.with_name("report.html")
    report.write_page(found, page)
    return "\n".join(report.lines(found)), page.read_text(encoding="utf-8")


def test_a_week_of_a_bundle_that_the_baseline_does_not_know_is_said_not_to_be_compared(
    store: Store, tmp_path: Path, clock
) -> None:
    of = config(tmp_path, '[drift]\nbaseline = ["2026-03-02", "2026-03-08"]\n')
    changed_bundle(store, clock)
    assert [one.alarms for one in weeks_of(store, of.drift)] == [(), (), ()]
    assert [bool(one.not_compared) for one in weeks_of(store, of.drift)] == [False, False, True]
    reason = "2026-W12: n has read nothing in the period of drift.baseline; set it to a period in"
    text, page = reported(of, store, 8)
    assert f"NOT COMPARED {reason}" in text
    assert "no alarm in 2 compared weeks;" in text
    assert "No alarm in 2 compared weeks." in page
    assert reason in page
    assert len(report.gather(of, store, 2).weeks) == 1, "that of the new bundle"
    text, page = reported(of, store, 2)
    assert "Nothing was compared." in page
    assert "no alarm" not in (text + page).casefold()


def test_a_baseline_of_before_the_first_reading_compares_nothing_and_says_so(
    store: Store, model: str, clock
) -> None:
    clock(MONDAY)
    note(store, model, np.full(50, 0.99))
    (found,) = weeks_of(store, Drift(baseline=[dt.date(2025, 3, 2), dt.date(2025, 3, 8)]))
    assert found.shifts == {}
    assert "m has read nothing in the period of drift.baseline" in found.not_compared


def test_prometheus_is_told_of_no_alarms_where_nothing_was_compared(store: Store, clock) -> None:
    changed_bundle(store, clock)
    registry = CollectorRegistry()
    registry.register(DriftMetrics(Drift(baseline=BASELINE), store.folder))
    said = generate_latest(registry).decode()
    assert 'chestxray_gateway_drift_compared{week="last"} 0.0' in said
    assert "chestxray_gateway_drift_alarms{" not in said
    assert 'chestxray_gateway_week_radiographs{outcome="read",week="last"} 200.0' in said
    registry = CollectorRegistry()
    registry.register(DriftMetrics(Drift(), store.folder))
    said = generate_latest(registry).decode()
    assert 'chestxray_gateway_drift_compared{week="last"} 1.0' in said
    assert 'chestxray_gateway_drift_alarms{week="last"} 1.0' in said


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", "torch")


def read_all(store: Store, reader: Reader, films: list[np.ndarray]) -> None:
    rows = []
    for film in films:
        try:
            outcome = reader.read(film)
        except RefusedError as refusal:
            outcome = refusal
        refused = isinstance(outcome, RefusedError)
        rows.append((outcome, [] if refused else outcome.probabilities.values()))
    with transaction(store.db):
        for number, (outcome, probabilities) in enumerate(rows):
            calls = [None] * len(probabilities)
            figures = Figures(
                0.1, f"P{number}", not calls, [], list(probabilities), calls, outcome.measures
            )
            readings.record(store.db, f"1.{number}", reader.bundle.identity, figures)


def test_phantoms_of_another_exposure_are_found_and_the_others_are_not(
    store: Store, reader: Reader, phantoms: Path, clock
) -> None:
    paths = sorted(phantoms.rglob("*.png"))[:60]
    films = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    over = [(255 * (film / 255.0) ** 0.35).astype(np.uint8) for film in films]
    store.remember_model(reader.bundle.identity, reader.bundle.card)
    for number, week in enumerate((films, over)):
        clock(MONDAY + number * WEEK)
        read_all(store, reader, week)
    first, second = weeks_of(store)
    assert first.alarms == ()
    assert Watched("measure", "brightness") in second.alarms
    assert {what.name for what in first.shifts if what.kind == "measure"} == {
        "brightness",
        "contrast",
        "look",
        "features",
    }


def test_prometheus_is_told_of_the_last_complete_week_and_of_this_one(
    store: Store, model: str, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(4)
    clock(MONDAY)
    note(store, model, draws.beta(6, 4, 200), notices=["burned-in"])
    clock(MONDAY + WEEK)
    note(store, model, draws.beta(2, 8, 50))
    registry = CollectorRegistry()
    registry.register(metrics := DriftMetrics(Drift(), store.folder))
    said = generate_latest(registry).decode()
    about = 'kind="probability",name="Effusion",week='
    assert f'chestxray_gateway_drift_distance{{{about}"last"}} 0.' in said
    assert f'chestxray_gateway_drift_distance_low{{{about}"current"}} 0.0' in said
    assert 'chestxray_gateway_drift_alarms{week="last"} 1.0' in said
    assert 'chestxray_gateway_drift_alarms{week="current"} 0.0' in said
    assert 'chestxray_gateway_week_radiographs{outcome="read",week="last"} 200.0' in said
    assert 'chestxray_gateway_week_notices{code="burned-in",week="last"} 200.0' in said
    computed = []
    monkeypatch.setattr(DriftMetrics, "_compute", lambda _: computed.append(1) or [])
    list(metrics.collect())
    assert not computed, "the figures before serve for some minutes"


def test_old_figures_are_removed_and_those_of_the_baseline_stay(
    store: Store, model: str, clock
) -> None:
    for number in range(4):
        clock(MONDAY + number * WEEK)
        note(store, model, np.array([0.2]))
    clock(MONDAY + 4 * WEEK)
    period = [dt.date(2026, 3, 2), dt.date(2026, 3, 8)]
    keeping = Retention(
        Storage(spare_mib=0, free_mib=0), store, Drift(keep_weeks=2, baseline=period)
    )
    keeping.run_once()
    left = [Week.of(row[0]).number for row in store.db.execute("SELECT time FROM readings")]
    assert left == [10, 12, 13]


def test_old_figures_of_a_shadow_are_removed_though_none_is_configured_any_more(
    store: Store, clock
) -> None:
    shadow = ShadowStore.open(store.folder, 0)
    for number in range(1, 5):
        clock(MONDAY + (number - 1) * WEEK)
        shadow.begin(number, f"1.{number}")
        shadow.finish(number, "model", 0.1, b"figures", "1")
    shadow.begin(5, "1.5")  # and it ended then
    shadow.close()
    keeping = Retention(Storage(spare_mib=0, free_mib=0), store, Drift(keep_weeks=2))
    clock(MONDAY + 4 * WEEK)
    keeping.run_once()
    assert [row.number for row in shadow_rows(store.folder, [0, 9])[0]] == [3, 4]
    clock(MONDAY + 9 * WEEK)
    keeping.run_once()
    assert len(shadow_rows(store.folder, [0, 9])[0]) == 2, "it looks once an hour"
    again = Retention(Storage(spare_mib=0, free_mib=0), store, Drift(keep_weeks=2))
    again.run_once()
    assert shadow_rows(store.folder, [0, 9])[0] == []
    assert shadow_counts(store.folder) == (0, 0, 0, 4), "a shadow goes on after what it has read"


def test_a_damaged_database_of_the_shadow_does_not_stop_retention(
    store: Store, model: str, clock, caplog: pytest.LogCaptureFixture
) -> None:
    (store.folder / shadow_store.FILE).write_bytes(b"no database at all" * 500)
    clock(MONDAY)
    note(store, model, np.array([0.2]))
    clock(MONDAY + 4 * WEEK)
    Retention(Storage(spare_mib=0, free_mib=0), store, Drift(keep_weeks=2)).run_once()
    assert store.db.execute("SELECT count(*) FROM readings").fetchone()[0] == 0
    assert "remove shadow.sqlite yourself" in caplog.text


def test_a_state_folder_of_before_gets_the_tables_and_keeps_what_it_has(tmp_path: Path) -> None:
    before = Store(tmp_path / "state")
    add(before, "1.1")
    for table in ("models", "readings", "week_keys"):
        before.db.execute(f"DROP TABLE {table}")
    before.db.execute("PRAGMA user_version = 1")
    before.close()
    with sqlite3.connect(tmp_path / "state/queue.sqlite") as old:
        assert old.execute("PRAGMA user_version").fetchone()[0] == 1
    after = connect(tmp_path / "state/queue.sqlite")
    assert after.execute("PRAGMA user_version").fetchone()[0] == stores.VERSION
    assert after.execute("SELECT count(*) FROM readings").fetchone()[0] == 0
    assert after.execute("SELECT uid FROM images").fetchone()[0] == "1.1"
    after.close()


# --- the report -----------------------------------------------------------------------------------


def test_the_report_says_as_text_and_as_a_page_which_week_moved_and_names_nobody(
    store: Store, model: str, tmp_path: Path, clock
) -> None:
    draws = np.random.default_rng(6)
    clock(MONDAY)
    note(store, model, draws.beta(2, 8, 200), notices=["view-unknown"])
    clock(MONDAY + WEEK)
    note(store, model, draws.beta(6, 4, 200))
    text, page = reported(config(tmp_path), store, 4)
    assert "2026-W10  m: 200 radiographs of 200 patients, 0 refused; view-unknown 200" in text
    assert "ALARM 2026-W11: probability of Effusion has moved by 0." in text
    assert "ALARM 2026-W10" not in text
    assert 'class="alarm"' in page
    assert "view-unknown" in page
    for said in (text, page):
        assert PATIENT.split("^")[0] not in said
        assert "1.17" not in said, "an image's UID"


def test_the_report_says_that_the_database_of_the_shadow_is_damaged_and_everything_else(
    store: Store, model: str, tmp_path: Path, clock
) -> None:
    clock(MONDAY)
    note(store, model, np.full(50, 0.4))
    (store.folder / shadow_store.FILE).write_bytes(b"no database at all" * 500)
    text, page = reported(config(tmp_path), store, 2)
    assert "shadow.sqlite cannot be read" in text
    assert "50 radiographs of 50 patients" in text
    assert "figures of the shadow (shadow.sqlite): number unknown" in text
    assert "radiographs as received (images/): 0" in text
    assert "none has read" not in text
    assert "shadow.sqlite cannot be read" in page
    assert "<td>unknown</td>" in page


def test_a_bundle_without_distributions_is_told_of_with_the_next_step(
    store: Store, tmp_path: Path, clock
) -> None:
    clock(MONDAY)
    note(store, remember(store, {}), np.full(50, 0.4))
    text, _ = reported(config(tmp_path), store, 2)
    assert "set drift.baseline to a period of this gateway" in text
    assert "ALARM" not in text
    assert "no alarm" not in text


def test_of_a_bundle_with_measures_alone_it_is_said_that_no_probability_is_compared(
    store: Store, clock
) -> None:
    model = remember(store, {}, {"look": VALIDATION.model_dump()})
    clock(MONDAY)
    note(store, model, np.full(50, 0.4), measures={"look": 0.2})
    (found,) = weeks_of(store)
    assert list(found.shifts) == [Watched("measure", "look")]
    assert found.not_compared.startswith("probabilities: the bundle has no distributions")


def test_a_week_is_not_compared_by_probability_where_the_baseline_was_refused_whole(
    store: Store, model: str, clock
) -> None:
    clock(MONDAY)
    note(store, model, np.full(50, np.nan), refused=True)
    clock(MONDAY + WEEK)
    note(store, model, np.full(50, 0.4))
    first, second = weeks_of(store, Drift(baseline=BASELINE))
    assert first.alarms == ()
    assert second.alarms == (Watched("refused", ""),)
    assert second.not_compared.startswith("probabilities: m has read nothing in the period of")


def test_a_baseline_that_ends_before_it_begins_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"drift: baseline = 2026-02-01 to 2026-01-05 ends before"
    ):
        config(tmp_path, '[drift]\nbaseline = ["2026-02-01", "2026-01-05"]\n')
    with pytest.raises(ConfigError, match=r"drift.baseline"):
        config(tmp_path, '[drift]\nbaseline = ["2026-02-01"]\n')
