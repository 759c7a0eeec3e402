"""Memory of tensors on a CPU: allocated lazily or in huge pages, and passed to kernels by address."""

from __future__ import annotations

import contextlib
import math
import mmap

import torch

_CHUNK_BYTES = 2**26  # shared by several weights, because mappings shorter than a huge page (2 MiB) get none
_ALIGNMENT = 64  # a cache line, and a vector register


def lazy_zeros(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    in_large_pages: bool = False,
) -> torch.Tensor:
    """Like `torch.zeros`, but without writing to the pages on a CPU, so that memory is used only once it is
    written to. `in_large_pages`: faster to read, and used in units of 2 MiB instead of 4 KiB.
    """
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    pages = _large_pages(num_bytes) if in_large_pages else _pages(num_bytes)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


class LargePages:
    """Memory for tensors that every step reads completely, contiguous and in huge pages where the system
    supports them (Linux, Documentation/admin-guide/mm/transhuge.rst): with small pages the CPU translates an
    address for every 4 KiB.
    """

    def __init__(self) -> None:
        self._chunk: mmap.mmap | None = None
        self._used = 0

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Aligned to 64 bytes. The memory of a chunk is freed with the last of its tensors."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if self._chunk is None or self._used + num_bytes > len(self._chunk):
            self._chunk, self._used = _large_pages(max(num_bytes, _CHUNK_BYTES)), 0
        tensor = torch.frombuffer(self._chunk, dtype=dtype, count=math.prod(shape), offset=self._used).view(
            shape
        )
        self._used += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        return tensor


def address_of(tensor: torch.Tensor) -> int:
    """For a kernel. Raises `ValueError` for a tensor that is not contiguous."""
    if not tensor.is_contiguous():
        raise ValueError(f"a kernel needs a contiguous tensor, not one of strides {tensor.stride()}")
    return tensor.data_ptr()


def _pages(num_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _large_pages(num_bytes: int) -> mmap.mmap:
    pages = _pages(num_bytes)
    with contextlib.suppress(OSError):  # a system without huge pages is only slower
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
