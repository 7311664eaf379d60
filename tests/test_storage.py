"""URLs, objects, the cache, publication and raw trees, on a store inside this process."""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from chestxray import storage
from chestxray.errors import ArtifactError, MissingExtraError, StorageError
from chestxray.storage import cache, objects, publication
from chestxray.storage.objects import ObjectFolder

SECRET = "planted-secret-0123456789"  # noqa: S105 - what must never be printed


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTXRAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/place"


def folder(tmp_path: Path, **files: bytes) -> Path:
    out = tmp_path / uuid.uuid4().hex
    for name, content in files.items():
        path = out / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return out


@pytest.mark.parametrize(
    "text", ["s3://films/raw/a", "s3://films/raw/a/", "gs://b", "memory://x/y"]
)
def test_a_url_survives_the_path_that_it_becomes(text):
    path = storage.path_of(text)
    assert storage.url_of(path) == text.rstrip("/")
    assert storage.url_of(path / "b.png") == f"{text.rstrip('/')}/b.png"
    assert storage.shown(f"{path / 'b'} is missing") == f"{text.rstrip('/')}/b is missing"


@pytest.mark.parametrize("text", ["a", "/a/b", "file:///a/b", "hub:owner/name", "c:/x", "a:b"])
def test_a_path_of_this_machine_is_no_url(text):
    assert not storage.is_url(text)
    assert storage.path_of(text) == Path(text.removeprefix("file://"))


@pytest.mark.parametrize(
    "bad",
    [
        f"s3://AKIA:{SECRET}@films/raw",
        f"s3://films/raw?X-Amz-Signature={SECRET}",
        f"https://store/{SECRET}",
        f"sftp://user:{SECRET}@host/a",
        "s3://",
        "s3://films/../other",
    ],
)
def test_a_url_with_credentials_or_of_no_known_store_is_refused_without_repeating_it(bad):
    for call in (storage.path_of, storage.url_of, storage.fetched, ObjectFolder):
        with pytest.raises(StorageError, match=r"give|supported") as refused:
            call(bad)
        assert SECRET not in str(refused.value)


def test_the_command_line_refuses_a_key_in_a_url_before_anything_repeats_it():
    for words in (["compare", f"s3://k:{SECRET}@b/x", "b"], ["train", f"--out=s3://k:{SECRET}@b"]):
        done = subprocess.run(
            [sys.executable, "-m", "chestxray", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "credentials come from the environment" in done.stderr
        assert SECRET not in done.stdout + done.stderr


def test_an_error_of_a_store_is_cleaned_of_credentials(monkeypatch, url):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setitem(objects._file_system("memory").__dict__, "info", _failing)
    with pytest.raises(StorageError) as failed:
        ObjectFolder(url).version("a")
    assert SECRET not in str(failed.value)
    assert "signature=***" in str(failed.value)
    assert failed.value.__suppress_context__


def _failing(*_: object) -> None:
    raise PermissionError(f"denied to {SECRET}, signature=abcdef1234")


def test_a_missing_package_is_named_with_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    objects._file_system.cache_clear()
    with pytest.raises(
        MissingExtraError, match=r"^s3fs is not installed: pip install 'chestxray\[s"
    ):
        ObjectFolder("s3://films")


def test_what_a_passing_fault_cuts_short_is_read_again(monkeypatch, url):
    store = ObjectFolder(url)
    store.write("a", b"0123456789")
    answers = [b"01234", OSError("reset"), b"0123456789"]

    def cat_file(*_: object, **__: object) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(objects, "_PAUSE", 0.0)
    monkeypatch.setitem(objects._file_system("memory").__dict__, "cat_file", cat_file)
    assert store.read("a", 10) == b"0123456789"
    assert not answers


def test_what_stays_cut_short_or_has_another_content_is_refused(monkeypatch, url, tmp_path):
    monkeypatch.setattr(objects, "_PAUSE", 0.0)
    store = ObjectFolder(url)
    store.write("a", b"0123456789")
    with pytest.raises(StorageError, match="10 bytes came instead of 11"):
        store.read("a", 11)
    with pytest.raises(StorageError, match="not what its manifest says"):
        store.download("a", tmp_path / "a", 10, "0" * 64)
    assert not any(tmp_path.glob("a*"))


def test_a_published_folder_is_fetched_as_it_was_without_hidden_files(url, tmp_path):
    made = folder(tmp_path, a_csv=b"1", sub__b_bin=b"22", sub__c_bin=b"333")
    (made / ".lock").touch()
    storage.publish(made, url, "evaluate")
    got = storage.fetched(url)
    assert got.name == "place"
    found = {path.relative_to(got).as_posix() for path in got.rglob("*") if path.is_file()}
    assert found == {"a.csv", "sub/b.bin", "sub/c.bin", "files.json"}
    assert (got / "sub/c.bin").read_bytes() == b"333"
    assert storage.fetched(f"{url}/sub/b.bin").read_bytes() == b"22"
    assert storage.fetched(f"{url}/sub", without=["sub"]) != got


def test_publishing_again_removes_what_is_no_longer_there_and_keeps_what_others_put(url, tmp_path):
    storage.publish(folder(tmp_path, a_csv=b"1", old_csv=b"2"), url, "evaluate")
    ObjectFolder(url).write("other.csv", b"theirs")
    storage.publish(folder(tmp_path, a_csv=b"new"), url, "evaluate")
    assert set(ObjectFolder(url).versions()) == {"a.csv", "files.json", "other.csv"}
    assert (storage.fetched(url) / "a.csv").read_bytes() == b"new"


@pytest.mark.parametrize("fails_at", range(7))
def test_a_reader_sees_a_whole_publication_or_is_told_that_it_is_unfinished(
    url, tmp_path, monkeypatch, fails_at
):
    """A writer is stopped at each of its steps, over an older publication; then it resumes."""
    storage.publish(
        folder(tmp_path, a_csv=b"old a", b_csv=b"old b", gone_csv=b"x"), url, "evaluate"
    )
    monkeypatch.setattr(publication, "_AT_A_TIME", 1)
    steps = iter(range(100))

    def stopping(call):
        def step(self, *arguments):
            if next(steps) == fails_at:
                raise KeyboardInterrupt
            return call(self, *arguments)

        return step

    with monkeypatch.context() as patch:
        for name in ("write", "upload", "delete"):
            patch.setattr(ObjectFolder, name, stopping(getattr(ObjectFolder, name)))
        made = folder(tmp_path, a_csv=b"new a", b_csv=b"new b")
        if fails_at < 6:
            with pytest.raises(KeyboardInterrupt):
                storage.publish(made, url, "evaluate")
        else:
            storage.publish(made, url, "evaluate")
    wanted = {"old" if fails_at == 0 else "new"}
    if fails_at in {0, 6}:
        got = storage.fetched(url)
        assert {path.read_text().split()[0] for path in got.glob("[ab].csv")} == wanted
    else:
        for place in (url, f"{url}/a.csv"):
            with pytest.raises(StorageError, match="unfinished"):
                storage.fetched(place)
    storage.publish(made, url, "evaluate")
    assert (storage.fetched(url) / "b.csv").read_bytes() == b"new b"


@pytest.mark.parametrize("earlier", ["run", "unfinished run", "copied run", "dataset", "begun set"])
def test_what_another_command_wrote_is_not_replaced(url, tmp_path, monkeypatch, earlier):
    """A publication deletes what the list of files before it names."""
    theirs = folder(tmp_path, run_json=b"{}", bundle__weights=b"hours of work")
    if earlier == "run":
        storage.publish(theirs, url, "train")
    elif earlier == "unfinished run":
        with monkeypatch.context() as patch:
            patch.setattr(ObjectFolder, "upload", _failing_upload)
            with pytest.raises(StorageError):
                storage.publish(theirs, url, "train")
    else:
        names = {"copied run": "run.json", "dataset": "dataset.json"}
        ObjectFolder(url).write(names.get(earlier, ".prepare/plan.json"), b"{}")
    before = ObjectFolder(url).versions()
    made = folder(tmp_path, metrics_json=b"1")
    with pytest.raises(ArtifactError, match=rf"{url} holds what `chestxray (train|prepare)` wrote"):
        storage.publish(made, url, "evaluate")
    with pytest.raises(ArtifactError, match="choose another --out"):
        storage.staged_folder(url, "evaluate").__enter__()  # before hours of computing
    assert ObjectFolder(url).versions() == before
    storage.publish(made, f"{url}/evaluation", "evaluate")
    assert ObjectFolder(url).read("evaluation/metrics.json") == b"1"


def _failing_upload(*_: object) -> None:
    raise StorageError("the store is away")


def test_a_file_of_another_publication_is_not_taken_for_the_one_that_is_named(
    url, tmp_path, monkeypatch
):
    monkeypatch.setattr(objects, "_PAUSE", 0.0)
    storage.publish(folder(tmp_path, a_csv=b"same size 1", b_csv=b"2"), url, "evaluate")
    ObjectFolder(url).write("a.csv", b"same size 2")
    with pytest.raises(StorageError, match="not what its manifest says"):
        storage.fetched(url)
    ObjectFolder(url).delete("b.csv")
    with pytest.raises(StorageError, match=r"b\.csv is missing, its files\.json says 1 bytes"):
        storage.fetched(url)


def test_the_nearest_list_of_files_counts(url, tmp_path):
    """A folder in a published one may be published again by itself."""
    storage.publish(folder(tmp_path, run_json=b"1", evaluation__a_json=b"old"), url, "evaluate")
    storage.publish(folder(tmp_path, b_json=b"new"), f"{url}/evaluation", "evaluate")
    ObjectFolder(url).delete("evaluation/a.json")
    got = storage.fetched(url)
    assert {path.name for path in got.rglob("*.json")} == {"run.json", "b.json", "files.json"}


def test_a_file_that_is_written_again_by_itself_is_no_more_in_the_list_of_files(url, tmp_path):
    storage.publish(folder(tmp_path, run_json=b"1", out__table_csv=b"old"), url, "evaluate")
    with storage.staged_file(f"{url}/out/table.csv", "predict") as table:
        assert table.read_bytes() == b"old"
        table.write_bytes(b"written again")
    assert (storage.fetched(url) / "out/table.csv").read_bytes() == b"written again"
    assert (storage.fetched(url) / "run.json").read_bytes() == b"1"
    ObjectFolder(url).write("run.json", b"22")
    with pytest.raises(StorageError, match="says 1 bytes"):
        storage.fetched(url)


def test_files_that_are_all_of_a_list_of_files_are_written_again_by_themselves(url, tmp_path):
    storage.publish(folder(tmp_path, table_csv=b"old"), url, "evaluate")
    with storage.staged_file(f"{url}/table.csv", "predict") as table:
        table.write_bytes(b"written again")
    assert (storage.fetched(url) / "table.csv").read_bytes() == b"written again"
    assert storage.fetched(f"{url}/table.csv").read_bytes() == b"written again"
    storage.publish(folder(tmp_path, table_csv=b"new"), url, "evaluate")
    assert storage.fetched(f"{url}/table.csv").read_bytes() == b"new"


def test_nothing_at_a_url_is_said(url):
    with pytest.raises(StorageError, match=f"nothing is at {url}: check the URL"):
        storage.fetched(url)
    with pytest.raises(StorageError, match=f"nothing is at {url}: check the URL"):
        storage.mirrored(url)


def test_an_output_is_in_the_store_only_when_it_is_complete(url):

    def interrupted() -> None:
        with storage.staged_folder(url, "evaluate") as out:
            out.mkdir()
            (out / "a.csv").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not ObjectFolder(url).versions()
    with storage.staged_folder(url, "evaluate") as again:
        assert (again / "a.csv").read_text() == "half"  # it resumes
        (again / "a.csv").write_text("whole")
    assert (storage.fetched(url) / "a.csv").read_text() == "whole"
    assert not storage.staging_of(url).exists()
    with storage.staged_file(f"{url}/t.csv", "predict", beside=["n.json"]) as table:
        (table.parent / "n.json").write_text("{}")
        table.write_text("1")
    with storage.staged_file(f"{url}/t.csv", "predict") as table:
        assert table.read_text() == "1"  # so that the checks of what is there hold
        with pytest.raises(ArtifactError, match="another process is writing memory://"):
            storage.staged_file(f"{url}/t.csv", "predict").__enter__()
    assert storage.fetched(f"{url}/n.json").read_text() == "{}"


def test_what_an_interrupted_command_left_is_not_taken_by_another(url):
    """A training that was interrupted has its checkpoints on this machine alone."""

    def interrupted(out: str, *, early: bool) -> None:
        with storage.staged_folder(out, "train") as run:
            if not early:
                run.mkdir()
                (run / "last.ckpt").write_text("hours of work")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(url, early=False)
    for other in ("evaluate", "explain"):
        with pytest.raises(ArtifactError, match=f"interrupted `chestxray train` left .* for {url}"):
            storage.staged_folder(url, other).__enter__()
    with pytest.raises(ArtifactError, match="finish it, choose another --out, or delete"):
        storage.claim_staging(url, "prepare")
    with storage.staged_folder(url, "train") as run:
        assert (run / "last.ckpt").read_text() == "hours of work"
    with pytest.raises(KeyboardInterrupt):
        interrupted(f"{url}/new", early=True)
    storage.claim_staging(f"{url}/new", "evaluate")  # nothing was made
    assert ".made_by" not in ObjectFolder(url).versions()


def test_the_cache_stays_within_its_limit_and_drops_what_was_not_used_for_longest(monkeypatch):
    monkeypatch.setenv(cache.LIMIT, str(100 / 2**30))
    made = []

    def make(key: str):
        def write(path: Path) -> None:
            made.append(key)
            path.write_bytes(b"x" * 40)

        return write

    for key in ("a", "b"):
        cache.release(cache.keep(key, 40, make(key)))
    os.utime(cache.folder() / "objects/a", (1e9, 1e9))
    os.utime(cache.folder() / "objects/b", (2e9, 2e9))
    held = cache.keep("a", 40, make("a"))  # used again: now b is the oldest
    os.utime(cache.folder() / "objects/b", (1e9, 1e9))
    cache.release(cache.keep("c", 40, make("c")))
    assert sorted(path.name for path in (cache.folder() / "objects").glob("?")) == ["a", "c"]
    with pytest.raises(StorageError, match=r"no room for 80 bytes: 20 bytes are in use beyond"):
        cache.keep("d", 80, make("d"))  # a is held
    cache.release(held)
    cache.release(cache.keep("d", 80, make("d")))
    assert made == ["a", "b", "c", "d"]


def test_what_a_killed_process_was_making_is_made_again_and_its_room_is_given_back(monkeypatch):
    monkeypatch.setenv(cache.LIMIT, str(100 / 2**30))
    objects_folder = cache.folder() / "objects"
    (objects_folder / ".a.tmp").mkdir(parents=True)
    (objects_folder / ".a.tmp/half").write_bytes(b"x" * 50)
    (objects_folder / "a.part").write_bytes(b"x" * 90)
    path = cache.keep("b", 60, lambda path: path.write_bytes(b"b" * 60) and None)
    assert path.read_bytes() == b"b" * 60
    assert not (objects_folder / ".a.tmp").exists()
    cache.release(path)
    assert cache.keep("a", 40, lambda path: path.write_bytes(b"a" * 40) and None).exists()


@pytest.mark.parametrize("kills", [False, True])
def test_an_entry_whose_deletion_stopped_midway_is_never_given(monkeypatch, kills):
    """Deletion stops after the first file of a folder: an error, or the end of the process."""
    monkeypatch.setenv(cache.LIMIT, str(100 / 2**30))

    def make(path: Path) -> None:
        path.mkdir()
        for name in "abc":
            (path / name).write_bytes(name.encode() * 20)

    def stopping(folder: Path, **_: object) -> None:
        for file in sorted(file for file in folder.rglob("*") if file.is_file())[:1]:
            file.unlink()
        if kills:
            raise KeyboardInterrupt

    cache.release(cache.keep("a", 60, make))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt, StorageError):
        patch.setattr(cache.shutil, "rmtree", stopping)
        cache.release(cache.keep("b", 70, lambda path: path.write_bytes(b"b" * 70) and None))
    again = cache.keep("a", 60, make)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        name: name.encode() * 20 for name in "abc"
    }
    held = sum(p.stat().st_size for p in again.parent.rglob("*") if p.is_file())
    assert held <= 100


def test_an_entry_that_another_process_holds_is_not_deleted(monkeypatch):
    monkeypatch.setenv(cache.LIMIT, str(100 / 2**30))
    cache.release(cache.keep("a", 60, lambda path: path.write_bytes(b"a" * 60) and None))
    with (cache.folder() / "objects/a.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(StorageError, match="raise --cache-gib"):
            cache.keep("b", 60, lambda path: path.write_bytes(b"b" * 60) and None)


@pytest.mark.parametrize("text", ["0", "-1", "much", "inf", "nan"])
def test_a_limit_that_is_no_number_of_gib_is_refused(monkeypatch, text):
    monkeypatch.setenv(cache.LIMIT, text)
    with pytest.raises(StorageError, match="give a positive number of GiB"):
        cache.limit()


@pytest.mark.parametrize("text", ["cache", "./cache", "~/cache", "../cache"])
def test_a_relative_cache_is_refused_before_each_working_folder_has_one(
    monkeypatch, tmp_path, text
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHESTXRAY_CACHE", text)
    with pytest.raises(StorageError, match=r"is relative.*: give a whole path, such as /"):
        cache.folder()
    with pytest.raises(StorageError, match="is relative"):
        cache.keep("a", 1, lambda path: path.touch())
    assert not list(tmp_path.iterdir())


def test_a_relative_folder_of_xdg_is_ignored_as_its_specification_says(monkeypatch, tmp_path):
    monkeypatch.delenv("CHESTXRAY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert cache.folder() == tmp_path / ".cache/chestxray"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache.folder() == tmp_path / "caches/chestxray"


def test_a_mirror_has_tables_whole_and_radiographs_by_size_alone(url):
    store = ObjectFolder(url)
    store.write("labels.csv", b"image,x\na.png,1\n")
    store.write("images/a.png", b"pixels" * 100)
    tree = storage.mirrored(url)
    assert (tree / "labels.csv").read_bytes() == b"image,x\na.png,1\n"
    stand_in = tree / "images/a.png"
    assert stand_in.stat().st_size == 600
    assert not stand_in.read_bytes().strip(b"\0")
    with storage.opened(stand_in) as file:
        assert file.read(6) == b"pixels"
        file.seek(-6, os.SEEK_END)
        assert file.read() == b"pixels"
    assert storage.origin_of(stand_in) == f"{url}/images/a.png"
    assert storage.shown(stand_in) == f"{url}/images/a.png"
    store.delete("images/a.png")
    local, gone = storage.contents([__file__, stand_in])
    assert local == __file__
    assert gone == storage.path_of(f"{url}/images/a.png")  # no decoder can open it
    assert storage.mirrored(f"{url}/labels.csv").name == "labels.csv"


def test_contents_come_in_order_and_travel_between_processes(url):
    store = ObjectFolder(url)
    names = [f"{number:03d}.png" for number in range(40)]
    for name in names:
        store.write(name, name.encode())
    tree = storage.mirrored(url)
    read = list(storage.contents(tree / name for name in names))
    assert [file.getvalue().decode() for file in read] == names
    copy = pickle.loads(pickle.dumps(read[3]))  # noqa: S301 - made here
    assert (copy.name, copy.read()) == (str(tree / "003.png"), b"003.png")


@pytest.mark.parametrize("name", ["../escape.csv", "a//b.csv"])
def test_an_object_whose_name_leads_out_of_the_tree_is_refused(url, name, monkeypatch):
    found = {name: objects.Version(1, "x"), "labels.csv": objects.Version(1, "x")}
    monkeypatch.setattr(ObjectFolder, "versions", lambda *_, **__: found)
    with pytest.raises(StorageError, match=r"holds an object with the name|labels"):
        storage.mirrored(url)
    assert not list(cache.folder().rglob("escape.csv"))


def test_no_secret_is_in_what_is_published_kept_or_logged(url, tmp_path, monkeypatch, caplog):
    """A store that repeats the key in its errors fails at each kind of operation once."""
    caplog.set_level("DEBUG", "chestxray")
    monkeypatch.setattr(objects, "_PAUSE", 0.0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    memory = objects._file_system("memory")
    for name in ("pipe_file", "put_file", "get_file"):
        monkeypatch.setitem(memory.__dict__, name, _failing_once(getattr(memory, name)))
    storage.publish(folder(tmp_path, a_json=b"{}", b__c_json=b"{}"), url, "evaluate")
    kept = storage.fetched(url)
    assert caplog.text.count("***") == 3
    store = ObjectFolder(url)
    written = [store.read(name) for name in store.versions()]
    written += [path.read_bytes() for path in cache.folder().rglob("*") if path.is_file()]
    assert len(written) >= 2 * len(list(kept.rglob("*.json"))) == 6
    assert not any(SECRET.encode() in content for content in (*written, caplog.text.encode()))


def _failing_once(call):
    failed = []

    def operation(*arguments: object, **options: object) -> object:
        if not failed:
            failed.append(True)
            raise OSError(f"denied to {SECRET}")
        return call(*arguments, **options)

    return operation
