"""Fixtures shared by the tests: real data where it lies, phantoms and a small run made once."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import settings

from chestxray import file_locks

if TYPE_CHECKING:
    import httpx
    from playwright.sync_api import Browser, Page

    from chestxray.dataset.store import Dataset
    from chestxray.reading.reader import Reader
    from public_trees import Film

# A deadline tells of a busy machine, not of the code. Each run draws other examples.
settings.register_profile("no deadline", deadline=None, max_examples=50)
settings.load_profile("no deadline")

# Two test processes share two cores; more threads than cores make each other wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]
REAL = REPOSITORY.parent / "shared" / "data"

# A network and images small enough for a run in seconds.
TINY = ("backbone=resnet10t", "size=32", "batch_size=16", "max_epochs=3", "learning_rate=0.003")


NEED_POSIX = {
    ("test_gateway", "test_soak"): "the gateway runs on Linux and macOS only",
    (
        "test_checkpoint_files",
        "test_decoding_limits",
        "test_dicom_hostile",
        "test_file_modes",
        "test_http_connections",
        "test_predict",
        "test_security",
        "test_serve_attacks",
        "test_serve_cli",
        "test_serve_limits",
        "test_storage",
    ): "it tests limits, locks, signals and file modes of POSIX",
}
"""Test modules by the beginning of their names, and why Windows skips them."""


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real radiographs, tables and DICOM files."""
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not there: it holds real radiographs, which are not shipped")
    return REAL


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own cache out of the tests: theirs is this process's, and empty at first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHESTXRAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class _NotHere(pytest.Module):
    """Test modules of what this system lacks; skipped without being imported."""

    reason = ""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(self.reason, allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """Skip, on Windows, the modules that need POSIX."""
    reasons = [why for names, why in NEED_POSIX.items() if module_path.stem.startswith(names)]
    if file_locks.FLOCK or not reasons:
        return None
    module: _NotHere = _NotHere.from_parent(parent, path=module_path)
    module.reason = reasons[0]
    return module


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a crash say where it was: each training by Lightning takes the handlers of it away."""
    faulthandler.disable()
    faulthandler.enable(item.config.stash[fault_handler_stderr_fd_key])


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Give a folder that the first test process makes, and that all of them read."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    out = base / "shared" / name
    out.parent.mkdir(exist_ok=True)
    made = out.with_name(f"{name}.made")
    with out.with_name(f"{name}.lock").open("w") as lock:
        while not file_locks.take(lock.fileno()):
            time.sleep(0.05)
        if not made.exists():
            make(out)
            made.touch()
    return out


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw tree of 160 balanced phantoms of 64 px."""
    from chestxray.sources.phantom.tree import synth

    return once(
        tmp_path_factory,
        "phantoms",
        lambda out: synth(out, images=160, pixels=64, seed=1, balanced=True),
    )


@pytest.fixture(scope="session")
def films(phantoms: Path) -> list[Film]:
    """The first 24 phantoms."""
    import public_trees

    return public_trees.films(phantoms)


@pytest.fixture
def build(films: list[Film], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a tree in a public data set's layout, named as in `set_trees.BUILDERS`."""
    import set_trees

    return lambda name: set_trees.BUILDERS[name](tmp_path / name.replace("/", " "), films)


@pytest.fixture(scope="session")
def dataset(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The phantoms, prepared at 32 px."""
    from chestxray.dataset.preparation import prepare
    from chestxray.dataset.store import Dataset

    return Dataset.open(
        once(tmp_path_factory, "dataset", lambda out: prepare(phantoms, out, size=32))
    )


@pytest.fixture(scope="session")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the phantoms; not to be changed.

    Its few validation images are no evidence for any finding. Since most tests need calls, every
    finding with positives and negatives counts as assessed.
    """
    from chestxray.evaluation.evidence import one_sided
    from chestxray.training import fit
    from chestxray.training import recipe as recipes

    def lacking(y, _p, _patients) -> str:
        return f"{missing} in validation" if (missing := one_sided(y)) else ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chestxray.evaluation.thresholds.no_evidence", lacking)
        return once(
            tmp_path_factory,
            "run",
            lambda out: fit.train(dataset, recipes.load("quick", TINY), out),
        )


@pytest.fixture(scope="session")
def pair(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two networks on the phantoms; likewise."""
    from chestxray.training import fit
    from chestxray.training import recipe as recipes

    recipe = recipes.load("quick", (*TINY, "members=2", "max_epochs=2"))
    return once(tmp_path_factory, "pair", lambda out: fit.train(dataset, recipe, out))


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's bundle as an OpenVINO export, by which a process reads without torch; likewise."""
    pytest.importorskip("openvino", reason="needs the export extra")
    pytest.importorskip("onnx", reason="needs the export extra")
    from chestxray.model import bundle
    from chestxray.model.export import export
    from chestxray.model.parity import noise

    return once(
        tmp_path_factory,
        "export",
        lambda out: export(bundle.load(run / "bundle"), out, "openvino", "fp32", noise(32)),
    )


# --- the viewer in a browser --------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; not for longer than a module, since its event loop forbids others meanwhile."""
    from viewer_parts import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def service(reader: Reader) -> Iterator[httpx.Client]:
    """The web service with the module's own reader."""
    from chestxray.serving.admission import Limits
    from chestxray.serving.web import create_app
    from web_server import ready

    with ready(create_app(reader, Limits(decoders=1))) as client:
        yield client


@pytest.fixture
def page(browser: Browser, service: httpx.Client, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The service's viewer, open; the parameter, where a test has one, is the window's options."""
    from viewer_parts import opened

    with opened(browser, service, **getattr(request, "param", {})) as page:
        yield page


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files for the viewer: two phantoms, one to be refused, and one that is not an image."""
    from viewer_parts import write_radiographs

    return write_radiographs(tmp_path_factory.mktemp("radiographs"))


class Clock:
    """Tells the seconds that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()
