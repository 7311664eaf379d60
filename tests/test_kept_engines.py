from __future__ import annotations

import compileall
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import chestxray
from chestxray.errors import ArtifactError
from chestxray.evaluation import predictions
from chestxray.model import bundle as bundles
from chestxray.model import model_card
from chestxray.model.parity import noise
from chestxray.reading import engine as engines
from chestxray.reading import kept_engines, reader
from chestxray.reading.prediction import predict
from chestxray.reading.reader import Reader

pytest.importorskip("openvino", reason="needs the export extra")

FILES = {"engine.json", "graph.xml", "graph.bin"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; gives the folder of kept engines in it."""
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/engines"


@pytest.fixture
def by_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` choose OpenVINO in float32, however fast torch is with so small a network."""
    monkeypatch.setattr(engines, "_CLEARLY", 1e9)


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` choose torch."""
    monkeypatch.setattr(engines, "fastest", lambda given, _: given[-1])


@pytest.fixture
def films(phantoms: Path) -> list[Path]:
    return sorted((phantoms / "images_001/images").iterdir())[:40]


def entries(home: Path) -> list[Path]:
    assert not list(home.glob(".*")), "what is temporary is gone"
    return sorted(home.iterdir())


def ran(script: str, *words: object) -> subprocess.Popen[str]:
    """Start Python with a script, which finds `words` in `sys.argv[1:]`."""
    command = [sys.executable, "-c", script, *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def said(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err


NO_TORCH = """
heavy = {'torch', 'torchvision', 'timm', 'onnx'} & set(sys.modules)
assert not heavy, heavy
"""
COMMAND = f"""
import sys
from chestxray.cli import main
sys.argv[0] = 'chestxray'
try:
    main.main()
except SystemExit as end:
    assert not end.code
{NO_TORCH}
"""
SERVE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import chestxray, web_server
from chestxray.serving import Limits, server, web
bundle, film = sys.argv[1:]
with web_server.ready(web.create_app(chestxray.load(bundle), Limits(decoders=1))) as client:
    answer = client.post('/v1/read', files={{'file': open(film, 'rb')}})
    assert answer.status_code in (200, 422), answer.text
{NO_TORCH}
"""
GATEWAY = f"""
import sys
from pathlib import Path
from chestxray.serving.gateway import processes, supervisor, worker
assert processes.load_model(Path(sys.argv[1]), 'auto', None).identity
{NO_TORCH}
"""


@pytest.mark.usefixtures("by_graph")
@pytest.mark.parametrize("members", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_start_gives_the_bytes_of_the_first_without_torch(
    run, pair, films, tmp_path, home, members
):
    bundle = (run if members == 1 else pair) / "bundle"
    folder = tmp_path / "films"
    folder.mkdir()
    for film in films:
        (folder / film.name).symlink_to(film)
    first, second = tmp_path / "first/p.csv", tmp_path / "second/p.csv"
    made = predict(bundle, folder, first, heatmaps=True)
    (entry,) = entries(home)
    assert {path.name for path in entry.iterdir()} == FILES
    told = said(ran(COMMAND, "predict", bundle, folder, "--out", second, "--heatmaps"))
    assert f"read by {made.engine}, " in told
    assert first.read_bytes() == second.read_bytes()
    maps = "heatmaps.npy"
    assert (first.parent / maps).read_bytes() == (second.parent / maps).read_bytes()
    assert entries(home) == [entry]
    table = predictions.read(second).rows
    assert set(table["model"]) == {model_card.read(bundle).identity}


@pytest.mark.usefixtures("by_graph")
def test_explain_imports_no_torch_at_its_second_start(run, films, tmp_path):
    chestxray.load(run / "bundle")
    said(ran(COMMAND, "explain", run / "bundle", films[0], "--out", tmp_path / "out"))


@pytest.mark.usefixtures("by_graph")
@pytest.mark.parametrize("script", [SERVE, GATEWAY], ids=["serve", "gateway"])
def test_what_serves_imports_no_torch_at_its_second_start(run, films, script):
    chestxray.load(run / "bundle")
    said(ran(script, run / "bundle", films[0]))


def answers(of: Reader) -> np.ndarray:
    return of.engine.run(noise(32).images).logits


@pytest.mark.usefixtures("by_graph")
def test_what_is_kept_is_the_graph_with_what_decided_the_choice(run, home):
    first = chestxray.load(run / "bundle")
    (entry,) = entries(home)
    second = chestxray.load(run / "bundle")
    assert type(second.bundle) is model_card.Facts, "the network was not loaded"
    assert second.engine.name == first.engine.name
    assert np.array_equal(answers(first), answers(second))
    decided_by = json.loads((entry / "engine.json").read_text(encoding="utf-8"))["decided_by"]
    text = json.dumps(decided_by, sort_keys=True, separators=(",", ":"))
    assert entry.name == hashlib.sha256(text.encode()).hexdigest()
    assert decided_by["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.usefixtures("by_torch")
def test_that_torch_was_chosen_is_kept_too(run, home, monkeypatch):
    first = chestxray.load(run / "bundle")
    (entry,) = entries(home)
    assert [path.name for path in entry.iterdir()] == ["engine.json"]
    monkeypatch.setattr(engines, "candidates", None)  # nothing is converted or timed
    second = chestxray.load(run / "bundle")
    assert second.engine.name == first.engine.name
    assert second.engine.name.startswith("torch")


def test_openvino_by_its_name_is_converted_once_and_gives_the_same_answers(run, home, monkeypatch):
    first = chestxray.load(run / "bundle", "openvino")
    (entry,) = entries(home)
    assert {path.name for path in entry.iterdir()} == FILES
    monkeypatch.setattr(engines, "to_onnx", None)  # nothing is converted
    for threads in (None, 1):
        second = chestxray.load(run / "bundle", "openvino", threads=threads)
        assert type(second.bundle) is model_card.Facts, "the network was not loaded"
        assert second.engine.name == first.engine.name
        assert np.abs(answers(second) - answers(first)).max() < 1e-5
    assert engines.choose(bundles.load(run / "bundle"), "openvino").name == first.engine.name
    assert kept_engines.find(model_card.read(run / "bundle"), "auto") is None, "it was not chosen"
    assert entries(home) == [entry]


@pytest.mark.usefixtures("by_graph")
def test_openvino_by_its_name_reads_with_the_graph_that_auto_chose(run, home, monkeypatch):
    first = chestxray.load(run / "bundle")
    (entry,) = entries(home)
    monkeypatch.setattr(engines, "to_onnx", None)
    second = chestxray.load(run / "bundle", "openvino")
    assert second.engine.name == first.engine.name
    assert np.array_equal(answers(first), answers(second))
    assert entries(home) == [entry]


@pytest.mark.parametrize("chosen", ["torch", "bfloat16"])
def test_openvino_by_its_name_does_not_take_another_choice_of_auto(run, home, chosen):
    trained = bundles.load(run / "bundle")
    made = engines._openvino(trained, engines.to_onnx(trained.classifier))
    graph = None if chosen == "torch" else made.graph
    kept_engines.keep(trained, "auto", chosen, graph, "bf16")
    assert chestxray.load(run / "bundle", "openvino").engine.name == made.engine.name
    assert len(entries(home)) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the owner of a folder is one of POSIX")
def test_openvino_by_its_name_believes_no_folder_that_others_can_write(run, home, caplog):
    chestxray.load(run / "bundle", "openvino")
    home.chmod(0o777)
    assert kept_engines.find_openvino(model_card.read(run / "bundle")) is None
    chestxray.load(run / "bundle", "openvino")
    assert "can be written by others" in caplog.text


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """The bundle with other weights."""
    found = bundles.load(run / "bundle")
    with torch.no_grad():
        for parameter in found.classifier.parameters():
            parameter.mul_(1.02)
    bundles.save(tmp_path / "other", found.classifier, found.card, found.detector)
    return tmp_path / "other"


def changes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Change one by one what decides the choice."""
    version, able = kept_engines.importlib.metadata.version, kept_engines.needed("openvino").Core

    class Other:
        def get_property(self, device, name):
            found = able().get_property(device, name)
            return [*found, "AMX"] if name == "OPTIMIZATION_CAPABILITIES" else found

    for package in ("torch", "timm", "openvino", "onnx"):
        with monkeypatch.context() as patch:
            patch.setattr(
                kept_engines.importlib.metadata,
                "version",
                lambda of, package=package: "9.9" if of == package else version(of),
            )
            yield package
    with monkeypatch.context() as patch:
        patch.setattr(kept_engines, "_CODE", ("0" * 64, "0" * 64))
        yield "the code"
    with monkeypatch.context() as patch:
        patch.setattr(kept_engines.needed("openvino"), "Core", Other)
        yield "the processor"


@pytest.mark.usefixtures("by_graph")
def test_another_bundle_version_or_processor_is_another_entry(run, other, home, monkeypatch):
    facts = model_card.read(run / "bundle")
    first = answers(chestxray.load(run / "bundle"))
    second = answers(chestxray.load(other))
    assert len(entries(home)) == 2
    assert not np.array_equal(first, second)
    assert np.array_equal(second, answers(chestxray.load(other)))
    assert kept_engines.find(facts, "auto") is not None
    for what in changes(monkeypatch):
        assert kept_engines.find(facts, "auto") is None, what
    assert kept_engines.find(facts, "auto") is not None
    assert len(entries(home)) == 2, "nothing that is whole is deleted"


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edited(path: Path) -> None:
    """Exchange what valid JSON says."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"format": 1,', '"format": 9,'), encoding="utf-8")


DAMAGES = {
    **{
        f"{file} {how.__name__}": (file, how) for file in sorted(FILES) for how in (halved, flipped)
    },
    **{f"{file} missing": (file, Path.unlink) for file in sorted(FILES)},
    "engine.json of another format": ("engine.json", edited),
}


@pytest.mark.usefixtures("by_graph")
def test_a_damaged_entry_is_told_of_and_made_again(run, home, caplog):
    expected = answers(chestxray.load(run / "bundle"))
    (entry,) = entries(home)
    sound = {path.name: path.read_bytes() for path in entry.iterdir()}
    for what, (file, damage) in DAMAGES.items():
        caplog.clear()
        damage(entry / file)
        found = chestxray.load(run / "bundle")
        assert f"{entry} is damaged, so the engine is chosen again: " in caplog.text, what
        assert np.array_equal(answers(found), expected), what
        assert entries(home) == [entry], what
        again = {path.name: path.read_bytes() for path in entry.iterdir()}
        assert again.keys() == sound.keys()
        assert again["graph.bin"] == sound["graph.bin"], what
        caplog.clear()
        assert kept_engines.find(model_card.read(run / "bundle"), "auto") is not None, what
        assert not caplog.records


@pytest.mark.usefixtures("by_graph")
def test_the_graph_of_another_bundle_under_this_ones_name_is_not_read_with(
    run, other, home, caplog
):
    expected = answers(chestxray.load(run / "bundle"))
    (own,) = entries(home)
    chestxray.load(other)
    (foreign,) = set(entries(home)) - {own}
    record = (own / "engine.json").read_bytes()
    shutil.rmtree(own)
    shutil.copytree(foreign, own)
    for whole in (True, False):  # its own record; and the one of this bundle
        if not whole:
            shutil.copytree(foreign, own, dirs_exist_ok=True)
            (own / "engine.json").write_bytes(record)
        caplog.clear()
        assert np.array_equal(answers(chestxray.load(run / "bundle")), expected)
        reason = "is of another bundle" if whole else "is not the one that engine.json describes"
        assert reason in caplog.text


@pytest.mark.usefixtures("by_graph")
def test_a_cache_that_cannot_be_written_costs_speed_alone(run, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "file/cache"))
    first = chestxray.load(run / "bundle")
    said_of = [record.getMessage() for record in caplog.records]
    assert len(said_of) == 1
    assert "the engine is not kept (" in said_of[0]
    assert "set CHESTXRAY_CACHE to a folder of your own" in said_of[0]
    assert np.array_equal(answers(first), answers(chestxray.load(run / "bundle")))


def full(path: Path, content: bytes) -> None:
    path.write_bytes(content[:100])
    raise OSError(28, "No space left on device", str(path))


@pytest.mark.usefixtures("by_graph")
def test_a_full_disk_leaves_nothing_and_costs_speed_alone(run, home, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(kept_engines, "write_bytes", full)
        chestxray.load(run / "bundle")
    assert "No space left on device" in caplog.text
    assert entries(home) == []
    chestxray.load(run / "bundle")
    assert len(entries(home)) == 1


def test_a_url_is_no_folder_for_the_cache(run, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHESTXRAY_CACHE", "s3://bucket/cache")
    facts = model_card.read(run / "bundle")
    kept_engines.keep(facts, "auto", "torch", None, "f32")
    assert kept_engines.find(facts, "auto") is None
    assert "CHESTXRAY_CACHE = 's3://bucket/cache' is a URL" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("by_graph")
def test_a_user_without_a_home_reads_all_the_same(run, monkeypatch, caplog):
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("CHESTXRAY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    assert len(answers(chestxray.load(run / "bundle")))
    assert "this user has no home folder" in caplog.text


@pytest.mark.usefixtures("by_graph")
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the owner of a folder is one of POSIX")
def test_a_folder_that_others_can_write_is_not_believed(run, home, monkeypatch, caplog):
    chestxray.load(run / "bundle")
    facts = model_card.read(run / "bundle")
    assert home.stat().st_mode & 0o777 == 0o700
    assert kept_engines.find(facts, "auto") is not None
    home.chmod(0o777)
    assert kept_engines.find(facts, "auto") is None
    chestxray.load(run / "bundle")
    assert "can be written by others" in caplog.text
    home.chmod(0o755)
    assert kept_engines.find(facts, "auto") is not None
    os.chown(home, 12345, -1) if os.geteuid() == 0 else monkeypatch.setattr(
        os, "geteuid", lambda: 12345
    )
    assert kept_engines.find(facts, "auto") is None
    assert len(list(home.iterdir())) == 1, "what is not believed stays"


def foreign(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("root alone can give files away")
    os.chown(path, 12345, -1)


@pytest.mark.usefixtures("by_graph")
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the owner of a file is one of POSIX")
@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("change", [foreign, lambda path: path.chmod(0o666)], ids=["his", "open"])
def test_a_file_of_another_user_is_not_believed_wherever_it_lies(run, home, caplog, name, change):
    """As where one who owns the folders above exchanges them between a check and the reading."""
    chestxray.load(run / "bundle")
    (entry,) = entries(home)
    change(entry / name)
    assert kept_engines.find(model_card.read(run / "bundle"), "auto") is None
    assert f"{entry / name} is another user's, or can be written by others" in caplog.text
    assert entries(home) == [entry]


@pytest.mark.usefixtures("by_graph")
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the mode of a file is one of POSIX")
def test_no_other_user_can_write_what_is_kept_whatever_the_umask(run, home):
    before = os.umask(0)
    try:
        chestxray.load(run / "bundle")
    finally:
        os.umask(before)
    (entry,) = entries(home)
    for path in (home, entry, *entry.iterdir()):
        assert not path.stat().st_mode & 0o022, path
    home.chmod(0o755)
    assert kept_engines.find(model_card.read(run / "bundle"), "auto") is not None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the owner of a folder is one of POSIX")
def test_nothing_is_made_in_the_folder_of_another_user(run, home, monkeypatch, caplog):
    """As by root with the home of a user, who could not write his own cache any more."""
    owner = home.parents[1].stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    os.chown(home.parents[1], 12345, -1) if owner == 0 else None
    kept_engines.keep(model_card.read(run / "bundle"), "auto", "torch", None, "f32")
    assert "the engine is not kept (" in caplog.text
    assert not home.parent.exists()


def failing(error: Exception):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.usefixtures("by_graph")
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("OpenVinoEngine", RuntimeError("Exception from src/core:\nnot enough memory")),
        ("OpenVinoEngine", MemoryError("not enough memory")),
        ("_content", OSError(24, "not enough memory")),
    ],
    ids=["runtime", "memory", "file"],
)
def test_an_entry_that_cannot_be_used_for_a_moment_is_left(
    run, home, monkeypatch, caplog, where, error
):
    chestxray.load(run / "bundle")
    facts = model_card.read(run / "bundle")
    (entry,) = entries(home)
    with monkeypatch.context() as patch:
        patch.setattr(kept_engines, where, failing(error))
        assert kept_engines.find(facts, "auto") is None
    assert f"{entry} cannot be used, so the engine is chosen again: " in caplog.text
    assert "not enough memory" in caplog.text
    assert entries(home) == [entry]
    assert kept_engines.find(facts, "auto") is not None


@pytest.mark.usefixtures("by_graph")
@pytest.mark.parametrize("where", ["_openvino", "_in_bfloat16"])
def test_what_was_chosen_while_the_runtime_failed_is_not_kept(run, home, monkeypatch, where):
    monkeypatch.setattr(engines, "has_bfloat16", lambda: True)
    monkeypatch.setattr(engines, "passes_bfloat16", lambda _: True)
    lacking = engines._cannot_run(RuntimeError("No space left on device"))
    with monkeypatch.context() as patch:
        patch.setattr(engines, where, failing(lacking))
        chestxray.load(run / "bundle")
    assert not home.exists()
    chestxray.load(run / "bundle")
    assert len(entries(home)) == 1


@pytest.mark.usefixtures("by_graph")
def test_without_a_folder_for_temporary_files_torch_reads(run, home, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert chestxray.load(run / "bundle").engine.name.startswith("torch")
    assert "the graph for OpenVINO could not be made: " in caplog.text
    assert "absent" in caplog.text
    assert not home.exists()


def test_that_a_graph_does_not_agree_with_torch_is_kept(run, home, monkeypatch):
    monkeypatch.setattr(engines, "TOLERANCE", -1.0)
    assert chestxray.load(run / "bundle").engine.name.startswith("torch")
    assert len(entries(home)) == 1


def test_openvino_that_cannot_use_the_processor_is_read_without(run, home, monkeypatch):
    absent = failing(RuntimeError('Device with "CPU" name is not registered'))
    monkeypatch.setattr(kept_engines.needed("openvino"), "Core", absent)
    assert chestxray.load(run / "bundle").engine.name.startswith("torch")
    assert not home.exists()


CUT = """
import os, sys
from pathlib import Path
from chestxray.model import model_card
from chestxray.model.parity import noise
from chestxray.reading import kept_engines
engine = kept_engines.find(model_card.read(Path(sys.argv[1])), "auto").engine
os.truncate(sys.argv[2], 0)
engine.run(noise(32).images[:1])
engine.run(noise(32).images)
"""


@pytest.mark.usefixtures("by_graph")
def test_an_engine_outlives_its_files(run, home):
    """As where another host deletes them on a shared disk; a mapped file would end the process."""
    chestxray.load(run / "bundle")
    (entry,) = entries(home)
    said(ran(CUT, run / "bundle", entry / "graph.bin"))


FOUND = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import chestxray
assert chestxray.__file__.startswith(sys.argv[1])
from chestxray.model import engines, model_card
facts = model_card.read(Path(sys.argv[2]))
changed = Path(sys.argv[3])
if changed.suffix:  # an upgrade, while the code of before is loaded
    changed.write_bytes(changed.read_bytes() + b"# other code")
from chestxray.reading import kept_engines
kept_engines.keep(facts, "auto", "torch", None, "f32")
print("found" if kept_engines.find(facts, "auto") else "none")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, in a folder of its own."""
    own = Path(chestxray.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(own, tmp_path / "copy/chestxray", ignore=ignored))


@pytest.mark.slow
def test_what_old_code_chose_after_an_upgrade_is_not_found_by_the_new(run, home, copy):
    words = (copy.parent, run / "bundle")
    assert said(ran(FOUND, *words, copy / "model/network.py")).strip() == "found"
    (old,) = entries(home)
    assert said(ran(FOUND, *words, "")).strip() == "found"
    new = [entry for entry in entries(home) if entry != old]
    assert len(new) == 1, "a new process has a key of its own"


@pytest.mark.slow
def test_a_program_without_source_files_keeps_nothing(run, home, copy):
    compileall.compile_dir(copy, quiet=2, legacy=True)
    for path in copy.rglob("*.py"):
        path.unlink()
    assert said(ran(FOUND, copy.parent, run / "bundle", "")).strip() == "none"
    assert not home.exists()


LOAD = """
import sys, time
from pathlib import Path
import chestxray
from chestxray.model import bundle
from chestxray.reading import engine
engine._CLEARLY = 1e9
ready, go = Path(sys.argv[2]), Path(sys.argv[3])
ready.touch()
while not go.exists():
    time.sleep(0.01)
print(chestxray.load(sys.argv[1]).engine.name)
"""


@pytest.mark.slow
def test_two_processes_that_start_at_once_keep_one_engine(run, home, tmp_path, caplog):
    ready = [tmp_path / str(number) for number in range(2)]
    started = [ran(LOAD, run / "bundle", path, tmp_path / "go") for path in ready]
    while not all(path.exists() for path in ready):
        time.sleep(0.02)
    (tmp_path / "go").touch()
    names = {said(process).splitlines()[0] for process in started}
    (entry,) = entries(home)
    assert {path.name for path in entry.iterdir()} == FILES
    assert names == {chestxray.load(run / "bundle").engine.name}
    assert not caplog.records


WRITE = """
import sys
from pathlib import Path
from chestxray.model import model_card
from chestxray.reading import kept_engines
facts = model_card.read(Path(sys.argv[1]))
for _ in range(30):
    kept_engines.keep(facts, "auto", "torch", None, "f32")
    found = kept_engines.find(facts, "auto")
    assert found is None or found == ("torch", None)
    (entry,) = [path for path in Path(sys.argv[2]).glob("[0-9a-f]*")] or [None]
    if entry:
        kept_engines._delete(entry)
"""


@pytest.mark.slow
def test_processes_that_keep_read_and_delete_one_entry_do_not_harm_each_other(run, home):
    started = [ran(WRITE, run / "bundle", home) for _ in range(3)]
    for process in started:
        said(process)
    assert not list(home.glob(".*"))


def test_the_entries_used_last_are_left_and_what_killed_processes_left_is_deleted(
    run, home, monkeypatch
):
    monkeypatch.setattr(kept_engines, "MOST", 2)
    facts = model_card.read(run / "bundle")
    names = iter("abcd")
    made = []

    def keep() -> None:
        name = next(names)
        made.append(facts.card.model_copy(update={"package_version": name}))
        kept_engines.keep(model_card.Facts(made[-1], None, "x"), "auto", name, None, "f32")

    def kept() -> list[bool]:
        facts = [model_card.Facts(of, None, "x") for of in made]
        return [kept_engines.find(of, "auto") is not None for of in facts]

    keep()
    keep()
    for age, entry in enumerate(sorted(home.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(entry, (1000 - age, 1000 - age))
    assert kept() == [True, True]  # and so both are used now
    first = kept_engines._key(kept_engines._deciding(model_card.Facts(made[0], None, "x"), "auto"))
    os.utime(home / first, (2000, 2000))
    old, new = (home / f".{'0' * 64}.{name}.tmp" for name in "ab")
    for path in (old, new, home / "notes"):
        path.mkdir()
        (path / "file").touch()
    os.utime(old, (3000, 3000))
    keep()
    assert kept() == [False, True, True]
    assert {path.name for path in home.iterdir() if len(path.name) != 64} == {new.name, "notes"}


@pytest.mark.usefixtures("by_graph")
def test_where_a_signature_is_required_nothing_kept_decides_a_reading(run, other, home, tmp_path):
    """A graph that someone put there with all its hashes is read, unless one is required."""
    pytest.importorskip("cryptography", reason="needs the sign extra")
    from chestxray.model.signature import create_key, sign

    bundle = Path(shutil.copytree(run / "bundle", tmp_path / "bundle"))
    public = create_key(tmp_path / "key")
    sign(bundle, tmp_path / "key")
    expected = answers(chestxray.load(bundle, require_signature=public))
    assert not home.exists(), "nothing was kept either"
    facts, foreign = model_card.read(bundle), bundles.load(other)
    planted = bundles.Bundle(facts.card, None, facts.identity, foreign.classifier)
    engines.choose(planted)
    (entry,) = entries(home)
    for name in ("auto", "openvino"):
        assert not np.array_equal(answers(chestxray.load(bundle, name)), expected)
        signed = chestxray.load(bundle, name, require_signature=public)
        assert np.array_equal(answers(signed), expected)
    assert entries(home) == [entry]


@pytest.mark.usefixtures("by_graph")
def test_where_there_may_be_a_gpu_torch_says_whether_there_is_one(run, monkeypatch):
    chestxray.load(run / "bundle")
    monkeypatch.setattr(reader, "gpu_possible", lambda: True)
    asked = []
    monkeypatch.setattr(engines, "device", lambda name: asked.append(name) or torch.device("cpu"))
    assert chestxray.load(run / "bundle").engine.name.startswith("OpenVINO")
    assert asked == ["auto"]
    for _ in range(2):
        chestxray.load(run / "bundle", device="cpu")
    assert asked == ["auto", "cpu"], "where it is named, nothing has to be found out"


@pytest.mark.usefixtures("by_graph")
def test_what_was_chosen_on_a_named_cpu_does_not_hold_where_a_gpu_is_to_be_found(run, monkeypatch):
    """As on a machine whose GPU is seen by torch alone."""
    monkeypatch.setattr(reader, "gpu_possible", lambda: False)
    chestxray.load(run / "bundle", device="cpu")
    asked = []
    monkeypatch.setattr(engines, "device", lambda name: asked.append(name) or torch.device("cpu"))
    chestxray.load(run / "bundle")
    assert asked == ["auto"]


class Stopping:
    """An engine that fails at its second batch of 32."""

    def __init__(self, reader: Reader) -> None:
        self.name, self._run, self._left = reader.engine.name, reader.engine.run, 1

    def run(self, images):
        self._left -= len(images) == 32
        if self._left < 0:
            raise RuntimeError("interrupted")
        return self._run(images)


@pytest.mark.usefixtures("by_graph")
@pytest.mark.parametrize("first", ["torch", "auto"])
@pytest.mark.parametrize("name", ["p.csv", "folder"])
def test_auto_finishes_a_table_by_the_engine_that_began_it(
    run, dataset, tmp_path, first, name, monkeypatch
):
    monkeypatch.setattr("chestxray.reading.sharded_prediction.SHARD", 40)
    chestxray.load(run / "bundle")  # `auto` is OpenVINO
    began = chestxray.load(run / "bundle", first)
    whole = predict(began, dataset, tmp_path / "whole" / name, split="train")
    out = tmp_path / name
    with pytest.raises(RuntimeError, match="interrupted"):
        predict(Reader(began.bundle, Stopping(began)), dataset, out, split="train")
    made = predict(run / "bundle", dataset, out, split="train")
    assert made.engine == began.engine.name
    for path in [out] if out.is_file() else sorted(out.iterdir()):
        expected = whole.path if out.is_file() else whole.path / path.name
        assert path.read_bytes() == expected.read_bytes(), path
    assert made.rows == whole.rows > 40


class Named:
    name = "OpenVINO 1.0, float32"

    def __init__(self, reader: Reader) -> None:
        self.run = Stopping(reader).run


@pytest.mark.usefixtures("by_graph")
def test_a_table_that_an_engine_of_elsewhere_began_is_refused_as_ever(run, dataset, tmp_path):
    began = chestxray.load(run / "bundle")
    with pytest.raises(RuntimeError, match="interrupted"):
        predict(Reader(began.bundle, Named(began)), dataset, tmp_path / "p.csv", split="train")
    with pytest.raises(ArtifactError, match=r"came from OpenVINO 1\.0, float32, this is OpenVINO"):
        predict(run / "bundle", dataset, tmp_path / "p.csv", split="train")


@pytest.mark.usefixtures("by_graph")
def test_rows_of_other_inputs_do_not_decide_the_engine(run, dataset, tmp_path):
    chestxray.load(run / "bundle")
    began = chestxray.load(run / "bundle", "torch")
    with pytest.raises(RuntimeError, match="interrupted"):
        predict(Reader(began.bundle, Stopping(began)), dataset, tmp_path / "p.csv", split="train")
    assert predict(run / "bundle", dataset, tmp_path / "p.csv", split="val").engine.startswith("Op")
