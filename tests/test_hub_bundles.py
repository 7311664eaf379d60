"""Bundles of the hub: pushed, fetched, pinned and refused, by its own client against a server."""

from __future__ import annotations

import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from chestxray import hub
from chestxray.errors import BundleError, SignatureError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.model import check_signature, create_key, model_card, push, sign
from chestxray.model.model_card import GATE, README, WEIGHTS
from chestxray.reading import load, predict
from hub_server import READER, WRITER, Hub, Repository, serving

NAME = "someone/chest"


@dataclass
class Client:
    """The hub's own client in this process, with its address, its cache, and a token.

    It reads the environment when it is imported, so that its settings are changed here.
    """

    patch: pytest.MonkeyPatch

    def use(self, server: Hub, cache: Path, token: str = "", *, offline: bool = False) -> None:
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        self.patch.setattr(constants, "ENDPOINT", server.address)
        self.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        self.patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        self.patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        self.patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        self.patch.setattr(constants, "HF_HUB_OFFLINE", offline)
        self.patch.setenv("HF_TOKEN", token)

    def cards(
        self, server: Hub, cache: Path, names: list[str], token: str = "", *, offline: bool = False
    ) -> list[tuple[str, str | None]]:
        """Give identity and origin of each bundle, or `refused` and why."""
        self.use(server, cache, token, offline=offline)
        return [_card(name) for name in names]


def _card(name: str) -> tuple[str, str | None]:
    try:
        facts = model_card.read(hub.local(name))
    except BundleError as error:
        return "refused", str(error)
    return facts.identity, facts.origin


@pytest.fixture
def client(monkeypatch) -> Client:
    return Client(monkeypatch)


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def bundle(run) -> Path:
    return run / "bundle"


@pytest.fixture(scope="module")
def files(bundle) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


@pytest.fixture(scope="module")
def pushed(server, bundle, tmp_path_factory) -> str:
    """The name under which the bundle was pushed, as the command printed it."""
    options = (f"hub:{NAME}", "--licence", "mit")
    done = subprocess.run(
        [sys.executable, "-m", "chestxray", "push", str(bundle), *options],
        env=server.environment(tmp_path_factory.mktemp("none"), WRITER),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert WRITER not in done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_files_of_a_bundle_are_those_that_are_downloaded():
    assert hub.BUNDLE_FILES == (CARD, WEIGHTS, GATE)


def test_a_bundle_is_pushed_whole_in_one_commit_with_a_model_card(server, pushed, files):
    repository = server.repositories[NAME]
    commit = pushed.partition("@")[2]
    assert pushed == f"hub:{NAME}@{repository.refs['main']}"
    assert len(repository.commits) == 2  # that which made the repository, and this one
    there = repository.commits[commit]
    assert {name: there[name] for name in files} == files
    _, head, body = there[README].decode().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "mit"
    assert metadata["pipeline_tag"] == "image-classification"
    assert f'chestxray.load("hub:{NAME}")' in body


def test_a_bundle_of_the_hub_reads_as_the_folder_does_online_and_offline(
    server, pushed, bundle, client, tmp_path
):
    identity, none = _card(str(bundle))
    assert none is None
    names = [f"hub:{NAME}", pushed, f"hub:{NAME}@main"]
    cache = tmp_path / "cache"
    assert client.cards(server, cache, names) == [(identity, pushed)] * 3
    gets = [line for line in server.asked if line.startswith("GET") and "/resolve/" in line]
    assert len(gets) == 3  # each file once
    assert not any(README in line for line in gets)
    asked = len(server.asked)
    client.use(server, cache, offline=True)
    image = np.arange(4096, dtype=np.uint8).reshape(64, 64)
    reader = load(f"hub:{NAME}", engine="torch")
    reading = reader.read(image, force=True)
    assert len(server.asked) == asked
    assert reading.to_dict()["origin"] == pushed
    assert pushed in repr(reading)
    here = load(bundle, engine="torch").read(image, force=True)
    assert reading.probabilities == here.probabilities
    assert here.origin is None
    cv2.imwrite(str(tmp_path / "a.png"), image)
    predict(reader, [tmp_path / "a.png"], tmp_path / "p.csv", force=True)
    assert f"{identity},{pushed}" in (tmp_path / "p.csv").read_text(encoding="utf-8")


def test_a_branch_moves_on_a_commit_stays_and_without_an_answer_the_last_one_counts(
    server, files, client, tmp_path
):
    repository = server.repositories["someone/moves"] = Repository()
    first = repository.commit(files)
    assert (
        client.cards(server, tmp_path, ["hub:someone/moves"])[0][1] == f"hub:someone/moves@{first}"
    )
    second = repository.commit(files | {README: b"new"})
    names = ["hub:someone/moves", f"hub:someone/moves@{first}"]
    found = client.cards(server, tmp_path, names)
    assert [of[1] for of in found] == [f"hub:someone/moves@{of}" for of in (second, first)]
    del server.repositories["someone/moves"]
    refused, kept = client.cards(server, tmp_path, names)
    assert refused[0] == "refused"  # the hub answers: it is gone
    assert kept[1] == f"hub:someone/moves@{first}"
    assert client.cards(server, tmp_path, names, offline=True) == found


def test_what_is_wrong_with_a_name_or_a_repository_is_said(server, pushed, files, client, tmp_path):
    assert pushed
    server.repositories["someone/other"] = Repository()
    server.repositories["someone/other"].commit({"config.json": b"{}"})
    server.repositories["someone/lacking"] = Repository()
    server.repositories["someone/lacking"].commit({CARD: files[CARD]})
    server.repositories["someone/tampered"] = Repository()
    changed = bytearray(files[WEIGHTS])
    changed[-1] ^= 1
    server.repositories["someone/tampered"].commit(files | {WEIGHTS: bytes(changed)})
    words = {
        "hub:someone": "give hub:OWNER/NAME, or hub:OWNER/NAME@REVISION",
        "hub:a--b/c": "is no name of a repository",
        "hub:someone/none": r"no such repository that you may use \(HTTP 401\)",
        f"hub:{NAME}@v9": "the repository has no revision 'v9'",
        "hub:someone/other": f"the repository has no {CARD}",
        "hub:someone/lacking": f"has no {WEIGHTS}, which its {CARD} describes",
        "hub:someone/tampered": f"is not the file that {CARD} describes",
    }
    found = client.cards(server, tmp_path, list(words))
    for (name, wanted), (kind, message) in zip(words.items(), found, strict=True):
        assert kind == "refused", (name, message)
        with pytest.raises(AssertionError, match=wanted):
            raise AssertionError(message)


def test_only_who_may_read_a_repository_gets_it(server, files, client, tmp_path):
    server.repositories["someone/private"] = Repository(private=True)
    server.repositories["someone/private"].commit(files)
    server.repositories["someone/gated"] = Repository(gated=True)
    server.repositories["someone/gated"].commit(files)
    names = ["hub:someone/private", "hub:someone/gated"]
    for token, status in (("", 401), (READER, 403)):
        private, gated = client.cards(server, tmp_path / str(status), names, token)
        assert f"HTTP {404 if token else 401}" in private[1]
        assert "log in with `hf auth login`, or set HF_TOKEN" in private[1]
        assert f"is not open to you (HTTP {status}): accept its terms" in gated[1]
    allowed = client.cards(server, tmp_path / "writer", names, WRITER)
    assert [of[1].partition("@")[0] for of in allowed] == names


def test_who_may_not_write_is_told_so_and_the_token_is_not_shown(
    server, bundle, client, tmp_path, caplog
):
    before = set(server.repositories)
    client.use(server, tmp_path, READER)
    with caplog.at_level(0), pytest.raises(BundleError, match="is not open to you") as refused:
        push(bundle, "hub:someone/new")
    said = "".join(traceback.format_exception(refused.value)) + caplog.text
    assert "HTTP 403" in said
    assert READER not in said
    assert set(server.repositories) == before


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of huggingface_hub itself
def test_a_refused_commit_says_that_the_repository_may_have_been_made(
    server, bundle, client, tmp_path
):
    client.use(server, tmp_path, WRITER)
    server.no_commits = True
    try:
        with pytest.raises(BundleError, match="may have made the repository or the branch") as said:
            push(bundle, "hub:someone/half@v1")
    finally:
        server.no_commits = False
    assert "nothing was changed" not in str(said.value)
    assert set(server.repositories["someone/half"].refs) == {"main", "v1"}


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of huggingface_hub itself
def test_a_private_push_does_not_publish_in_a_public_repository(server, bundle, client, tmp_path):
    client.use(server, tmp_path, WRITER)
    server.repositories["someone/open"] = Repository()
    before = server.repositories["someone/open"].commit({".gitattributes": b""})
    with pytest.raises(BundleError, match="is there already and is public"):
        push(bundle, "hub:someone/open@v1", private=True)
    assert server.repositories["someone/open"].refs == {"main": before}
    for _ in range(2):  # a new one, then one that is private already
        push(bundle, "hub:someone/closed", private=True)
    assert server.repositories["someone/closed"].private


def test_a_download_that_breaks_off_is_not_used_and_is_completed_later(
    server, files, client, tmp_path
):
    name = "hub:someone/broken"
    server.repositories["someone/broken"] = Repository()
    server.repositories["someone/broken"].commit(files)
    server.cut = WEIGHTS
    try:
        kind, message = client.cards(server, tmp_path, [name])[0]
    finally:
        server.cut = ""
    assert kind == "refused"
    assert "cannot be downloaded whole" in message
    kind, message = client.cards(server, tmp_path, [name], offline=True)[0]
    assert kind == "refused"
    assert "is not in the cache of the hub" in message
    assert client.cards(server, tmp_path, [name])[0][1].startswith("hub:someone/broken@")


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of huggingface_hub itself
def test_the_signature_beside_a_bundle_goes_with_it(server, files, bundle, client, tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    public = create_key(tmp_path / "key")
    sign(folder, tmp_path / "key")
    client.use(server, tmp_path, WRITER)
    name = push(folder, "hub:someone/signed@v2")
    assert set(server.repositories["someone/signed"].refs) == {"main", "v2"}
    there = server.repositories["someone/signed"].commits[name.partition("@")[2]]
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in (*hub.BUNDLE_FILES, hub.SIGNATURE):
        (snapshot / name).write_bytes(there[name])
    check_signature(snapshot, public)
    assert model_card.read(snapshot).identity == model_card.read(bundle).identity
    (snapshot / CARD).write_bytes(there[CARD] + b"\n")
    with pytest.raises(SignatureError, match="not what was signed"):
        check_signature(snapshot, public)


def test_only_a_folder_in_the_hubs_cache_has_an_origin(monkeypatch, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    inside = cache / "models--someone--a-b.c" / "snapshots" / commit
    inside.mkdir(parents=True)
    assert hub.origin(inside) == f"hub:someone/a-b.c@{commit}"
    (tmp_path / "link").symlink_to(cache)
    assert hub.origin(tmp_path / "link" / inside.relative_to(cache)) == hub.origin(inside)
    monkeypatch.chdir(inside.parent)
    assert hub.origin(Path(commit)) == hub.origin(inside)
    copy = tmp_path / "copy" / inside.relative_to(cache)
    copy.mkdir(parents=True)
    for outside in (copy, tmp_path, inside.parent, inside / "x", Path("bundle"), Path("/")):
        assert hub.origin(outside) is None
    assert hub.local("run/bundle") == Path("run/bundle")
    with pytest.raises(BundleError, match="give hub:OWNER/NAME"):
        hub.local("hub:x")


def test_a_file_of_a_repository_is_found_or_said_to_be_missing(server, client, tmp_path):
    repository = server.repositories["someone/weights"] = Repository()
    commit = repository.commit({hub.WHOLE: b"weights"})
    client.use(server, tmp_path)
    place = hub.Repository("someone/weights")
    place.check(hub.WHOLE)
    assert place.cached(hub.WHOLE) is None  # nothing was downloaded
    for ask in (place.check, place.file):
        with pytest.raises(BundleError, match=r"^hub:someone/weights has no other\.bin"):
            ask("other.bin")
    assert place.file(hub.WHOLE).read_bytes() == b"weights"
    pinned = hub.Repository("someone/weights", commit)
    asked = len(server.asked)
    assert pinned.file(hub.WHOLE) == place.cached(hub.WHOLE)
    pinned.check(hub.WHOLE)
    assert len(server.asked) == asked
    client.use(server, tmp_path, offline=True)
    assert place.file(hub.WHOLE).parent.name == commit
    nowhere = hub.Repository("someone/nowhere")
    for ask in (nowhere.check, nowhere.file):
        with pytest.raises(
            BundleError, match=r"model\.safetensors of hub:someone/nowhere cannot be"
        ):
            ask(hub.WHOLE)
