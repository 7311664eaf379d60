"""What a process keeps of the memory that it frees."""

from __future__ import annotations

import platform

import psutil
import pytest
import torch

from chestxray.process_limits import freed_memory_kept

MB = 2**20


def held() -> int:
    return psutil.Process().memory_info().rss // MB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not GNU's")
def test_freed_memory_is_kept_for_a_while_and_then_given_back():
    before = held()
    torch.ones(64 * MB)  # 256 MB
    assert held() < before + 64
    with freed_memory_kept():
        torch.ones(64 * MB)
        assert held() > before + 192
    assert held() < before + 64
    torch.ones(64 * MB)
    assert held() < before + 64
