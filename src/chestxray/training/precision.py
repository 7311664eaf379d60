"""Which arithmetic a machine trains fastest in."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def resolve(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Turn `auto` into bfloat16 where the device computes in it, float32 elsewhere.

    A processor without bfloat16 instructions emulates them, about ten times slower than float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("amx_bf16") or able.get("avx512_bf16") else "float32"
