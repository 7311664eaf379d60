"""The installation that `deploy/chestxray-gateway.service` documents, carried out.

It runs as root in namespaces of its own: mounts, network and processes end with it, and `/opt`,
`/etc` and `/var/lib` are its own. `pip install` finds the package that is tested instead of the
network's, `systemctl` becomes `systemd-analyze verify`, and the service is started as systemd
would: as its user, with its umask, environment, state directory and temporary files.

    unshare --mount --net --pid --fork --mount-proc --kill-child python gateway_service.py BUNDLE

It prints what it saw as JSON.
"""

from __future__ import annotations

import configparser
import json
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx

from gateway_parts import radiograph, store, wait_for

REPOSITORY = Path(__file__).parents[1]
UNIT = "chestxray-gateway.service"
WORK = Path("/opt/work")
PTH = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/tested.pth"
SCRIPT = """#!/opt/chestxray/bin/python
import sys
from chestxray.cli.main import main
if __name__ == "__main__":
    sys.exit(main())
"""


def ran(*command: object, **options: object) -> str:
    done = subprocess.run(
        [*map(str, command)], check=False, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def isolate(bundle: Path) -> None:
    """Give this process folders of its own, with the tested package where all users reach it."""
    ran("ip", "link", "set", "lo", "up")
    ran("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/opt")
    ran("cp", "-a", "/etc/.", "/opt/etc")
    base = Path(sys.base_prefix)
    bound = {
        "/opt/src": REPOSITORY / "src",
        "/opt/site": sysconfig.get_path("purelib"),
        "/opt/base": base,
    }
    for to, what in bound.items():
        Path(to).mkdir()
        ran("mount", "--bind", what, to)
    sys.path[:0] = ["/opt/src", "/opt/site"]
    shutil.copytree(bundle, WORK / "runs/nih/bundle")
    for name in (UNIT, "gateway.toml"):
        shutil.copy(REPOSITORY / "deploy" / name, WORK)
    ran("mount", "--bind", "/opt/etc", "/etc")
    closed = [path for path in (base, *base.parents) if not path.stat().st_mode & 0o001]
    if closed:  # such as /root
        ran("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", closed[-1])
        base.mkdir(parents=True)
        ran("mount", "--bind", "/opt/base", base)
    ran("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/var/lib")


def install() -> None:
    """Carry out the documented steps in one shell, as a careful root with umask 077."""
    steps = []
    for line in (WORK / UNIT).read_text().split("#\n")[0].splitlines():
        step = line.removeprefix("#   ")
        if step == line:
            continue
        if "/bin/pip install" in step:
            assert "chestxray[train,pacs,export]" in shlex.split(step)
            step = f"install -m 0755 {WORK}/script /opt/chestxray/bin/chestxray\n"
            step += f"printf '/opt/src\\n/opt/site\\n' > /opt/chestxray/{PTH}"
        if step.startswith("systemctl"):
            step = ""
        steps.append(step)
    assert len(steps) == 10
    (WORK / "script").write_text(SCRIPT)
    path = f"/opt/base/bin:{os.environ['PATH']}"
    os.umask(0o077)
    ran("bash", "-e", "-c", "\n".join(steps), cwd=WORK, env=os.environ | {"PATH": path})
    if shutil.which("systemd-analyze"):
        ran("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}")


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(f"/etc/systemd/system/{UNIT}")
    return parser["Service"]


def as_user(service: configparser.SectionProxy) -> list[str]:
    """What systemd does before it runs a command of the service."""
    user = pwd.getpwnam(service["User"])
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "OMP_NUM_THREADS": "1",  # not systemd: other tests use the cores too
        **dict([service["Environment"].split("=", 1)]),
    }
    privileges = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    return [
        "setpriv",
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--init-groups",
        *privileges,
        "env",
        "-i",
        *(f"{key}={value}" for key, value in environment.items()),
        *("sh", "-c", f'umask {service["UMask"]} && cd / && exec "$@"', "sh"),
    ]


def start(service: configparser.SectionProxy) -> subprocess.Popen[bytes]:
    owner = service["User"]
    for above, kind in (("/var/lib", "State"), ("/var/cache", "Cache")):
        folder, mode = Path(above, service[f"{kind}Directory"]), service[f"{kind}DirectoryMode"]
        ran("install", "-d", "-o", owner, "-g", owner, "-m", mode, folder)
    ran("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp")  # noqa: S108
    with Path("/opt/log").open("wb") as log:
        command = [*as_user(service), *shlex.split(service["ExecStart"])]
        return subprocess.Popen(command, stdout=log, stderr=log)


def listens(service: subprocess.Popen[bytes]) -> bool:
    assert service.poll() is None, Path("/opt/log").read_text()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 11112)) == 0


def main(bundle: Path) -> None:
    image = radiograph()  # drawn first: the packages of this process may lie in /tmp, soon hidden
    isolate(bundle)
    install()
    service = unit()
    running = start(service)
    wait_for(lambda: listens(running), 240)
    sent = store(image, 11112, calling="ORTHANC")
    status = [*shlex.split(service["ExecStart"])[:2], "status", "--config"]
    status = [*status, "/etc/chestxray/gateway.toml"]

    def asked() -> str:
        return ran(*as_user(service), *status)

    wait_for(lambda: "1 done" in asked(), 240, every=1)
    health = httpx.get("http://127.0.0.1:9114/health", timeout=60)
    saw = {"answer": sent, "status": asked(), "health": health.json()}
    running.terminate()
    saw["exit"] = running.wait(90)
    saw["status of root"] = ran(*status)
    state, user = Path("/var/lib/chestxray"), pwd.getpwnam(service["User"]).pw_uid
    saw["others' files"] = [str(one) for one in state.rglob("*") if one.stat().st_uid != user]
    saw["modes"] = {
        str(one): f"{one.stat().st_mode & 0o777:o}" for one in (state, *state.rglob("*"))
    }
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    saw["nobody"] = [
        subprocess.run([*nobody, "cat", path], check=False, capture_output=True).returncode
        for path in (state / "queue.sqlite", "/etc/chestxray/gateway.toml")
    ]
    saw["log"] = Path("/opt/log").read_text()
    print(json.dumps(saw))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
