"""Try an installed wheel: what it must do without torch, with a model that was made with torch.

    python scripts/smoke_test.py make FOLDER     with torch: phantoms, a small model, its export
    python scripts/smoke_test.py use FOLDER      in the environment to be tried

`use` refuses to run from the source tree, and where torch is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

PHANTOMS = 160
PIXELS = 64
SECONDS_TO_START = 120


def chestxray(*words: object, folder: Path) -> str:
    """Run a command in a folder and give what it prints; a failure ends this program."""
    command = [sys.executable, "-m", "chestxray", *map(str, words)]
    print("$ chestxray", *words, flush=True)
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def make(folder: Path) -> None:
    """Make phantoms, a dataset, a run of one epoch, its predictions and its export."""
    folder.mkdir(parents=True)
    chestxray("synth", "raw", "--images", PHANTOMS, "--pixels", PIXELS, "--balanced", folder=folder)
    chestxray("prepare", "raw", "dataset", "--size", PIXELS, "--split", "patient", folder=folder)
    changes = ("backbone=resnet10t", f"size={PIXELS}", "max_epochs=1", "weights=none")
    words = [word for change in changes for word in ("--set", change)]
    chestxray("train", "dataset", "--out", "run", "--recipe", "quick", *words, folder=folder)
    chestxray("export", "run/bundle", "--format", "openvino", "--out", "exported", folder=folder)


def use(folder: Path) -> None:
    """Predict, evaluate, report and serve, without torch."""
    if importlib.util.find_spec("torch") is not None:
        sys.exit("torch is installed here: the smoke test is for an environment without it")
    installed = Path(importlib.util.find_spec("chestxray").origin).resolve()
    if "site-packages" not in installed.parts:
        sys.exit(f"chestxray is imported from {installed}, not from an installed wheel")
    print(chestxray("--version", folder=folder).strip())
    predictions = "run/predictions.csv"
    chestxray(
        "predict", "run/bundle", "dataset", "--split", "test", "--out", predictions,
        "--engine", "exported", "--heatmaps", folder=folder,
    )  # fmt: skip
    chestxray(
        "evaluate", predictions, "--labels", "dataset", "--out", "run/evaluation",
        "--fit-on", "run/validation.csv", folder=folder,
    )  # fmt: skip
    metrics = json.loads((folder / "run/evaluation/metrics.json").read_text(encoding="utf-8"))
    print("mean AUROC", metrics["mean"]["auroc"])
    chestxray("report", "run", "--out", "run/report.html", folder=folder)
    print("report", (folder / "run/report.html").stat().st_size, "bytes")
    _serve(folder)
    print("the wheel works")


def _serve(folder: Path) -> None:
    radiograph = min((folder / "raw").rglob("images/*.png"))
    command = [
        sys.executable, "-m", "chestxray", "serve", "run/bundle", "--engine", "exported",
        "--port", "0",
    ]  # fmt: skip
    print("$ chestxray", *command[3:], flush=True)
    log = folder / "serve.log"
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    try:
        url = _url(server, log)
        with urllib.request.urlopen(url, timeout=60) as page:  # noqa: S310 - this machine's
            print("viewer", page.status, len(page.read()), "bytes")
        answer = _read(url, radiograph)
        print("read", radiograph.name, answer["model"], len(answer["findings"]), "findings")
    finally:
        server.terminate()
        server.wait(60)


def _url(server: subprocess.Popen, log: Path) -> str:
    """Wait until the service says where it is, and that it is ready."""
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and server.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text(encoding="utf-8"))
        if found:
            try:
                with urllib.request.urlopen(found[0] + "readyz", timeout=5):  # noqa: S310
                    return found[0]
            except OSError:
                pass
        time.sleep(0.2)
    sys.exit(f"serve did not become ready:\n{log.read_text(encoding='utf-8')}")


def _read(url: str, radiograph: Path) -> dict:
    """Post a radiograph as a form of one file, and give the reading."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    body = head.encode() + radiograph.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{url}v1/read", body, kind)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.load(answer)


def main() -> None:
    """Run the half that is asked for."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "use"):
        sys.exit(__doc__)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    {"make": make, "use": use}[sys.argv[1]](Path(sys.argv[2]).resolve())


if __name__ == "__main__":
    main()
