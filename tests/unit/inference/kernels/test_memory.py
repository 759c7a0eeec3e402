from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from inference.kernels.memory import LargePages, lazy_zeros


@pytest.mark.parametrize("in_large_pages", [False, True])
def test_lazy_zeros_are_zeros_and_writable(*, in_large_pages: bool) -> None:
    tensor = lazy_zeros((3, 5, 7), torch.bfloat16, "cpu", in_large_pages=in_large_pages)
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


def test_tensors_in_large_pages_are_their_own() -> None:
    pages = LargePages()
    shapes = [
        (3, 5),
        (2, 7, 11),
        (2**25 - 1,),
        (2**25,),
        (2**26 + 1,),
        (4,),
    ]  # within a stretch, up to its end, beyond
    tensors = [pages.zeros(shape, torch.bfloat16) for shape in shapes]
    for number, tensor in enumerate(tensors, 1):
        assert tensor.data_ptr() % 64 == 0
        assert not tensor.any()
        tensor.fill_(number)
    for number, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True), 1):
        assert tensor.shape == shape
        assert (tensor == number).all()


def test_memory_goes_back_with_the_last_tensor_of_a_stretch() -> None:
    pages = LargePages()
    before = resident_bytes()
    for _ in range(8):
        pages.zeros((2**26,), torch.uint8).fill_(1)
    assert resident_bytes() - before < 3 * 2**26


def test_a_system_without_large_pages_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)
    assert LargePages().zeros((2,), torch.bfloat16).tolist() == [0.0, 0.0]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
