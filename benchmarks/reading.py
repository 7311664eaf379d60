"""Reading speed: one image in each runtime and precision, and `predict` beside decoding alone.

Usage: python benchmarks/reading.py [BUNDLE [--int8 EXPORT] [--images N]]

One image, all in this run and taking turns, since the machine may be shared: torch in float32 for
the probabilities alone; torch with pytorch-grad-cam for 14 maps; probabilities and 14 maps in one
pass by torch, by OpenVINO in float32, by OpenVINO in int8 where the folder of such an export is
given, and in bfloat16 where the processor has it. Beside them stands the least time in float32: the
network's multiplications and additions at the rate at which this machine multiplies two matrices.

A folder: images a second of `predict` on N phantoms of 1024 px, of a bare loop that decodes the
same files on all cores, and of the engine alone; and what the two could do at best on these cores.
Without a bundle, a DenseNet-121 of random weights is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch.utils.flop_counter import FlopCounterMode

import chestxray
from chestxray.model import bundle as bundles
from chestxray.model.engines import OpenVinoEngine
from chestxray.model.export import to_onnx, to_openvino
from chestxray.model.exported import open_engine
from chestxray.model.network import Classifier, to_input
from chestxray.model.torch_engine import TorchEngine
from chestxray.parallel import cores
from chestxray.reading.judged_image import load
from chestxray.reading.prediction import predict
from chestxray.sources.nih import FINDINGS
from chestxray.sources.phantom.tree import synth

ROUNDS = 15
SLOW_ROUNDS = 2  # of 14 backward passes
MATRIX = 2048
PRODUCT = "matrix product"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--int8", type=Path)
    parser.add_argument("--images", type=int, default=256)
    given = parser.parse_args()
    if given.bundle:
        classifier = bundles.load(given.bundle).classifier
    else:
        classifier = Classifier("densenet121", FINDINGS, 224).eval()
    print(f"{cores()} cores")
    one_image(classifier, given.int8)
    if given.bundle:
        with tempfile.TemporaryDirectory() as folder:
            many_files(given.bundle, given.int8, given.images, Path(folder))


def one_image(classifier: Classifier, int8: Path | None) -> None:
    """Print the median time of each way to read one image."""
    size = classifier.size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size), dtype=np.uint8)
    graph = to_openvino(to_onnx(classifier))
    classifier = classifier.to(memory_format=torch.contiguous_format)
    ways: dict[str, Callable[[], object]] = {
        "torch float32, probabilities alone": partial(probabilities, classifier, image),
        "torch float32, with 14 maps": partial(TorchEngine(classifier).run, image),
        "OpenVINO float32, with 14 maps": partial(OpenVinoEngine(graph).run, image),
    }
    half = OpenVinoEngine(graph, "bf16")
    if half.arithmetic() == "bfloat16":
        ways["OpenVINO bfloat16, with 14 maps"] = partial(half.run, image)
    else:
        print("bfloat16: this processor has no instructions for it")
    if int8:
        ways["OpenVINO int8, with 14 maps"] = partial(open_engine(int8).run, image)
    slow = statistics.median(grad_cam(classifier, image) for _ in range(SLOW_ROUNDS))
    matrix = torch.rand(MATRIX, MATRIX)
    ways[PRODUCT] = partial(torch.mm, matrix, matrix)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            times[name].append(timed(way))
    least = operations(classifier, image) / (2 * MATRIX**3) * statistics.median(times.pop(PRODUCT))
    median = {name: statistics.median(of[1:]) for name, of in times.items()}  # the first warms up
    plain = median["torch float32, probabilities alone"]
    print(f"{'torch with pytorch-grad-cam, 14 maps':40} {slow * 1000:8.1f} ms")
    print(
        f"{'least time in float32 on these cores':40} {least * 1000:8.1f} ms, "
        f"{plain / least:5.2f} x torch's probabilities"
    )
    for name, value in median.items():
        print(
            f"{name:40} {value * 1000:8.1f} ms, {plain / value:5.2f} x torch's probabilities, "
            f"{slow / value:5.0f} x grad-cam"
        )


def probabilities(classifier: Classifier, image: np.ndarray) -> None:
    with torch.inference_mode():
        classifier(to_input(torch.from_numpy(image))).sigmoid()


def operations(classifier: Classifier, image: np.ndarray) -> int:
    """Count the multiplications and additions of one pass, which OpenVINO must do too."""
    with FlopCounterMode(display=False) as counter:
        probabilities(classifier, image)
    return counter.get_total_flops()


def grad_cam(classifier: Classifier, image: np.ndarray) -> float:
    inputs = to_input(torch.from_numpy(image))
    with GradCAM(classifier, [classifier.backbone.features.norm5]) as cam:
        start = time.perf_counter()
        for finding in range(len(FINDINGS)):
            cam(inputs, [ClassifierOutputTarget(finding)])
        return time.perf_counter() - start


def many_files(bundle: Path, int8: Path | None, images: int, folder: Path) -> None:
    """Print images a second of decoding alone, of the engine alone, and of `predict`."""
    paths = phantoms(folder / "radiographs", images)
    for engine in ("auto", *([int8] if int8 else [])):
        reader = chestxray.load(bundle, engine)
        batch = np.zeros((32, reader.size, reader.size), np.uint8)
        reader.read_batch(batch)
        network = 32 / statistics.median(timed(partial(reader.read_batch, batch)) for _ in range(3))
        decoding = images / timed(partial(decode_all, paths, reader.size))
        with contextlib.redirect_stderr(io.StringIO()):
            work = partial(predict, reader, paths, folder / "p.csv", heatmaps=True)
            whole = images / timed(work)
        best = 1 / (1 / decoding + 1 / network)  # both want the same cores
        print(f"predict by {reader.engine.name}{' (int8)' * (engine == int8)}:")
        print(f"  decoding alone {decoding:.1f} images/s, the network alone {network:.1f}")
        print(
            f"  predict {whole:.1f} images/s: {whole / decoding:.2f} of decoding alone, "
            f"{whole / best:.2f} of both one after the other on these cores"
        )


def phantoms(folder: Path, images: int) -> tuple[Path, ...]:
    """Make `images` names of eight phantoms of 1024 px."""
    with contextlib.redirect_stderr(io.StringIO()):
        synth(folder, images=8, pixels=1024)
    originals = sorted((folder / "images_001/images").glob("*.png"))
    paths = []
    for number in range(images):
        path = folder / f"{number:06d}.png"
        path.hardlink_to(originals[number % len(originals)])
        paths.append(path)
    return tuple(paths)


def decode_all(paths: tuple[Path, ...], size: int) -> None:
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(lambda path: load(path, size), paths):
            pass


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
