"""Explaining one image for 14 findings: one forward pass beside 14 runs of pytorch-grad-cam."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from chestxray.model.network import Classifier, to_input
from chestxray.model.torch_engine import batches
from chestxray.sources.nih import FINDINGS

SIZE, ROUNDS = 224, 5


def main() -> None:
    network = Classifier("densenet121", FINDINGS, SIZE).eval()
    image = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE), dtype=np.uint8)
    theirs, ours, forward = [], [], []
    with GradCAM(network, [network.backbone.features.norm5]) as cam:
        inputs = to_input(torch.from_numpy(image))
        for round_ in range(ROUNDS + 1):
            start = time.perf_counter()
            for finding in range(len(FINDINGS)):
                cam(inputs, [ClassifierOutputTarget(finding)])
            if round_:
                theirs.append(time.perf_counter() - start)
    fast = network.to(memory_format=torch.channels_last)
    for round_ in range(ROUNDS + 1):
        start = time.perf_counter()
        list(batches(fast, image))
        middle = time.perf_counter()
        with torch.inference_mode():
            fast(inputs)
        if round_:
            ours.append(middle - start)
            forward.append(time.perf_counter() - middle)
    slow, quick = statistics.median(theirs), statistics.median(ours)
    print(f"pytorch-grad-cam, 14 findings: {slow * 1000:.0f} ms")
    print(f"probabilities and 14 maps in one pass: {quick * 1000:.0f} ms, {slow / quick:.0f} x")
    print(f"probabilities alone: {statistics.median(forward) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
