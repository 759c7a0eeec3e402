from __future__ import annotations

from pathlib import Path

import torch

from inference.model.memory import lazy_zeros


def test_lazy_zeros_are_zeros_and_writable() -> None:
    tensor = lazy_zeros((3, 5, 7), torch.bfloat16, "cpu")
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((3, 5, 7), torch.bfloat16, True)
    assert not tensor.any()
    tensor[1] = 2.0
    assert tensor.sum() == 70.0


def test_untouched_pages_take_no_memory() -> None:
    before = resident_bytes()
    tensor = lazy_zeros((1024, 2**20), torch.uint8, "cpu")
    tensor[0, 0] = tensor[-1, -1] = 1
    assert int(tensor[-1, -1]) == 1
    assert resident_bytes() - before < tensor.nbytes / 16


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
