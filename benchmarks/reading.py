"""Reading speed: one image in each runtime and precision, many files, a file by the service.

Usage: python benchmarks/reading.py [BUNDLE] [--int8 EXPORT] [--export EXPORT] [--images 1000]

One image, all in this run and taking turns, since the machine may be shared: torch in float32 for
the probabilities alone; torch in float32 and in bfloat16 with all maps; OpenVINO with all maps in
float32, in bfloat16 where the processor has it, in int8 where the folder of such an export is
given; what `auto` takes; and torch with pytorch-grad-cam, a pass for each finding. Beside them
stands the limit: the network's multiplications and additions at the rate at which this machine
multiplies two matrices, in float32 and, where the processor has it, in bfloat16.

Many files: images a second of `predict` on phantoms of 1024 px, of decoding alone in as many
processes, and of the network alone; and the processor seconds of each. Where decoding and network
have cores of their own, `predict` can reach the slower of the two; where both want the same cores,
1 / (1 / decoding + 1 / network). Then the time from the start of the command line to the first row
on the disk: by an empty cache, where the network is converted and the engine chosen first; again,
by what was kept; and by the export that --export names.

One file by the service: an upload over a warm connection, beside decoding and the network. Its
bytes are made before and the answer is not parsed: what a client takes is not the service's time.

Without a bundle, a DenseNet-121 of random weights is measured. It has no ranking that bfloat16
could harm, so its card says that bfloat16 passed, and `auto` may take it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

if __name__ == "__main__":  # decoder processes import this file too, and need none of it
    import httpx
    import numpy as np
    import torch
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from serving import service
    from torch.utils.flop_counter import FlopCounterMode

    import chestxray
    from chestxray.dataset.decoding import DecoderPool
    from chestxray.dataset.pixels import PIXEL_RULE
    from chestxray.evaluation.calibration import Calibration
    from chestxray.evaluation.calibrators import Logistic
    from chestxray.model import bundle as bundles
    from chestxray.model.bundle import Bundle
    from chestxray.model.engines import OpenVinoEngine, has_bfloat16, needed
    from chestxray.model.export import to_onnx, to_openvino
    from chestxray.model.exported import open_engine
    from chestxray.model.model_card import ModelCard, TrainedOn
    from chestxray.model.network import Classifier, to_input
    from chestxray.model.openvino_graph import keep_float32
    from chestxray.model.parity import AurocChange, Parity
    from chestxray.model.torch_engine import TorchEngine
    from chestxray.parallel import cores
    from chestxray.reading.judged_image import load
    from chestxray.reading.prediction import predict
    from chestxray.reading.reader import Reader
    from chestxray.sources.nih import FINDINGS
    from chestxray.sources.phantom.tree import synth

ROUNDS = 15
SLOW_ROUNDS = 2  # of 14 backward passes
MATRIX = 2048
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--int8", type=Path)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHESTXRAY_CACHE"] = str(Path(folder) / "cache")
        bundle = given.bundle or random_bundle(Path(folder) / "bundle")
        core = needed("openvino").Core()
        print(f"{core.get_property('CPU', 'FULL_DEVICE_NAME')}, {cores()} cores, "
              f"{', '.join(core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))}; "
              f"load average {os.getloadavg()[0]:.1f}")  # fmt: skip
        reader = chestxray.load(bundle)
        one_image(bundles.load(bundle), reader, given.int8)
        paths = phantoms(Path(folder) / "radiographs", given.images)
        many_files(reader, paths, Path(folder))
        first_rows(bundle, paths, given.export, Path(folder))
        one_file(bundle, reader, paths[0])


def random_bundle(folder: Path) -> Path:
    """Write a bundle of random weights; the figures in its card mean nothing."""
    torch.manual_seed(0)
    classifier = Classifier("densenet121", FINDINGS, 224).eval()
    line = Logistic(family="platt", slope=1.0, offset=0.0)
    kept = Parity(
        images=1000, measured_on="nothing", measured_with="nothing", probability=0.0,
        log_odds=0.0, map=0.0, heat=0.0, peak=0.0, features=0.0,
        auroc={}, mean_auroc=AurocChange(value=0.0, low=0.0, high=0.0),
    )  # fmt: skip
    thresholds = dict.fromkeys(FINDINGS, 0.5)
    card = ModelCard(
        package_version="", weights_sha256="", backbone="densenet121", size=224,
        mean=classifier.normalisation[0], std=classifier.normalisation[1], pixel_rule=PIXEL_RULE,
        findings=FINDINGS, calibration=Calibration(calibrators=dict.fromkeys(FINDINGS, line)),
        thresholds=thresholds, operating_points={"joint": thresholds}, operating_point="joint",
        prevalences=dict.fromkeys(FINDINGS, 0.1), heat_references=dict.fromkeys(FINDINGS, 0.0),
        heat_scales=dict.fromkeys(FINDINGS, 1.0), bfloat16=kept,
        trained_on=TrainedOn(
            source="nothing", release="", synthetic=True, policies={}, split="none",
            split_sha256="0" * 64, train_images=0, train_patients=0,
            training_list_sha256="0" * 64, recipe="none",
        ),
    )  # fmt: skip
    bundles.save(folder, classifier, card, None)
    return folder


def one_image(bundle: Bundle, reader: Reader, int8: Path | None) -> None:
    """Print the median time of each way to read one image."""
    classifier = bundle.classifier
    size = classifier.size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size), dtype=np.uint8)
    graph = to_openvino(to_onnx(classifier))
    able = has_bfloat16()
    ways: dict[str, Callable[[], object]] = {
        "torch float32, probabilities alone": partial(probabilities, classifier, image),
        "torch float32, with maps": partial(TorchEngine(classifier).run, image),
        "OpenVINO float32, with maps": partial(OpenVinoEngine(graph).run, image),
        f"auto: {reader.engine.name}": partial(reader.engine.run, image),
    }
    if able:
        half = OpenVinoEngine(keep_float32(graph).read(), "bf16")
        ways["OpenVINO bfloat16, with maps"] = partial(half.run, image)
        ways["torch bfloat16, with maps"] = partial(TorchEngine(classifier, True).run, image)
    if int8:
        ways["OpenVINO int8, with maps"] = partial(open_engine(int8).run, image)
    products = {"float32": torch.float32} | ({"bfloat16": torch.bfloat16} if able else {})
    for name, kind in products.items():
        matrix = torch.rand(MATRIX, MATRIX).to(kind)
        ways[f"product {name}"] = partial(torch.mm, matrix, matrix)
    median = in_turns(ways)
    if not able:
        slow = timed(partial(TorchEngine(classifier, True).run, image))
        print(f"no bfloat16 in this processor: torch emulates it in {slow * 1000:.0f} ms")
    share = operations(classifier, image) / (2 * MATRIX**3)
    least = {name: share * median.pop(f"product {name}") for name in products}
    cam = statistics.median(grad_cam(classifier, image) for _ in range(SLOW_ROUNDS))
    print(f"{'torch with pytorch-grad-cam, maps of all findings':50} {cam * 1000:8.1f} ms")
    for name, value in least.items():
        print(f"{f'limit: its multiplications in {name}':50} {value * 1000:8.1f} ms")
    limit, plain = min(least.values()), median["torch float32, with maps"]
    for name, value in median.items():
        print(
            f"{name:50} {value * 1000:8.1f} ms, {plain / value:5.2f} x torch float32 with maps, "
            f"{cam / value:4.0f} x grad-cam, {value / limit:5.2f} x the limit"
        )


def in_turns(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Give the median seconds of each way; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            times[name].append(timed(way))
    return {name: statistics.median(of[1:]) for name, of in times.items()}


def probabilities(classifier: Classifier, image: np.ndarray) -> None:
    with torch.inference_mode():
        classifier(to_input(torch.from_numpy(image))).sigmoid()


def operations(classifier: Classifier, image: np.ndarray) -> int:
    """Count the multiplications and additions of one pass, which OpenVINO must do too."""
    with FlopCounterMode(display=False) as counter:
        probabilities(classifier, image)
    return counter.get_total_flops()


def grad_cam(classifier: Classifier, image: np.ndarray) -> float:
    """Give the seconds of a map of each finding; the last convolution's output is explained."""
    inputs = to_input(torch.from_numpy(image))
    layers = [of for of in classifier.backbone.modules() if isinstance(of, torch.nn.BatchNorm2d)]
    with GradCAM(classifier, [layers[-1]]) as cam:
        start = time.perf_counter()
        for finding in range(len(classifier.findings)):
            cam(inputs, [ClassifierOutputTarget(finding)])
        return time.perf_counter() - start


def many_files(reader: Reader, paths: tuple[Path, ...], folder: Path) -> None:
    """Print images a second, and processor seconds an image, of each part and of `predict`."""
    count = len(paths)
    batch = np.zeros((BATCH, reader.size, reader.size), np.uint8)
    reader.engine.run(batch)
    network = Cost.of(partial(reader.engine.run, batch), BATCH, rounds=5)
    decoding = Cost.of(partial(decode_all, paths, reader.size), count)
    with contextlib.redirect_stderr(io.StringIO()):
        whole = Cost.of(partial(predict, reader, paths, folder / "p.csv", heatmaps=True), count)
    slower = min(decoding.rate, network.rate)
    shared = 1 / (1 / decoding.rate + 1 / network.rate)
    print(f"{count} files of 1024 px by {reader.engine.name}:")
    for name, cost in (("decoding", decoding), ("network", network), ("predict", whole)):
        print(f"  {name:9} {cost.rate:7.1f} images/s, {cost.processor * 1000:6.1f} ms of a core")
    both = (decoding.processor + network.processor) / whole.processor
    print(
        f"  predict is {whole.rate / slower:.2f} of the slower of the two, "
        f"{whole.rate / shared:.2f} of both on the same cores; by processor time, which other work "
        f"on the machine changes less, {both:.2f} of both"
    )


class Cost:
    """What an image costs: images a second by the clock, and seconds of a core.

    Args:
        rate: images a second.
        processor: seconds of a core an image, in all processes that ended.
    """

    def __init__(self, rate: float, processor: float) -> None:
        self.rate, self.processor = rate, processor

    @classmethod
    def of(cls, work: Callable[[], object], images: int, rounds: int = 1) -> Cost:
        before, start = processor_seconds(), time.perf_counter()
        for _ in range(rounds):
            work()
        took, used = time.perf_counter() - start, processor_seconds() - before
        return cls(images * rounds / took, used / images / rounds)


def processor_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(of.ru_utime + of.ru_stime for of in used)


def decode_all(paths: tuple[Path, ...], size: int) -> None:
    """Decode as `predict` does, without a network."""
    with DecoderPool(partial(load, size=size), cores()) as pool:
        for _ in pool.map(paths, ahead=BATCH):
            pass


def first_rows(bundle: Path, paths: tuple[Path, ...], export: Path | None, folder: Path) -> None:
    """Print the seconds from the start of the command line to the first row on the disk."""
    ways = {"auto, with an empty cache": "auto", "auto, again": "auto"}
    if export:
        ways["an export"] = str(export)
    environment = os.environ | {"CHESTXRAY_CACHE": str(folder / "first cache")}
    for name, engine in ways.items():
        out = folder / "first.csv"
        part = out.with_name(f".{out.name}.part")
        start = time.monotonic()
        command = [sys.executable, "-m", "chestxray", "predict", bundle, paths[0].parent]
        with subprocess.Popen(
            [*map(str, command), "--engine", engine, "--out", str(out)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        ) as process:  # fmt: skip
            while not (part.exists() and part.read_bytes().count(b"\n") > 1):
                if process.poll() is not None:
                    sys.exit("predict ended without a row")
                time.sleep(0.02)
            took = time.monotonic() - start
            process.kill()
        for left in folder.glob(".first.csv.*"):
            left.unlink()
        load = os.getloadavg()[0]
        print(f"first row {took:.1f} s after the start of `predict` by {name}; load {load:.1f}")


def one_file(bundle: Path, reader: Reader, path: Path) -> None:
    """Print the time of an upload to the warm service, beside its parts."""
    data = path.read_bytes()
    image = load(path, reader.size).image[None]
    with service(bundle, 4) as (url, _), connected(url) as client:
        request = upload_of(data, url)
        # The network's threads here hold their cores a moment longer, so it is not the last.
        median = in_turns({
            "network": partial(reader.engine.run, image),
            "decoding": partial(load, data, reader.size),
            "service": partial(answered, client, request),
        })  # fmt: skip
    more = median["service"] - median["decoding"] - median["network"]
    print(", ".join(f"{name} {value * 1000:.1f} ms" for name, value in median.items()))
    print(f"one file by the warm service: decoding and network and {more * 1000:.1f} ms")


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """Give a connection to a service, on which nothing waits for an acknowledgement."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 80)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client


def upload_of(data: bytes, url: str) -> bytes:
    """Give the bytes of a request that uploads a file."""
    form = httpx.Request("POST", f"{url}/v1/read", files={"file": data})
    body = form.read()
    head = [f"POST {form.url.path} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in form.headers.items()]
    return "\r\n".join([*head, "", ""]).encode() + body


def answered(client: socket.socket, request: bytes) -> None:
    """Send a request and take its answer, which is a reading or the gate's refusal."""
    client.sendall(request)
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += client.recv(2**16)
    head = answer[:end].decode().lower()
    length = int(head.partition("content-length:")[2].split()[0])
    while len(answer) < end + 4 + length:
        answer += client.recv(2**16)
    if head.split()[1] not in {"200", "422"}:
        sys.exit(answer.decode())


def phantoms(folder: Path, images: int) -> tuple[Path, ...]:
    """Make `images` names of eight phantoms of 1024 px."""
    with contextlib.redirect_stderr(io.StringIO()):
        synth(folder / "raw", images=8, pixels=1024)
    originals = sorted((folder / "raw/images_001/images").glob("*.png"))
    names = folder / "names"
    names.mkdir()
    paths = []
    for number in range(images):
        path = names / f"{number:06d}.png"
        path.hardlink_to(originals[number % len(originals)])
        paths.append(path)
    return tuple(paths)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
