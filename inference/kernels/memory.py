"""Large tensors on a CPU: in memory that is taken as it is written, or in the system's large pages."""

from __future__ import annotations

import contextlib
import math
import mmap

import torch

_STRETCH = 2**26  # several weights share one: shorter mappings than a large page (2 MiB) get none
_ALIGNMENT = 64  # a cache line, and a vector register


def lazy_zeros(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    in_large_pages: bool = False,
) -> torch.Tensor:
    """As `torch.zeros`, which on a CPU writes every page and so takes a whole budget on the first day.
    `in_large_pages`: faster to read, and taken by 2 MiB instead of 4 KiB.
    """
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    pages = _large_pages(num_bytes) if in_large_pages else _pages(num_bytes)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


class LargePages:
    """Memory for what every step reads from end to end, side by side in large pages where the system has some
    (Linux, Documentation/admin-guide/mm/transhuge.rst): with small ones the processor looks up an address for
    every 4 KiB.
    """

    def __init__(self) -> None:
        self._stretch: mmap.mmap | None = None
        self._used = 0

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """At an address that is a multiple of 64; its memory goes back with the last tensor beside it."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if self._stretch is None or self._used + num_bytes > len(self._stretch):
            self._stretch, self._used = _large_pages(max(num_bytes, _STRETCH)), 0
        tensor = torch.frombuffer(self._stretch, dtype=dtype, count=math.prod(shape), offset=self._used).view(
            shape
        )
        self._used += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        return tensor


def _pages(num_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _large_pages(num_bytes: int) -> mmap.mmap:
    pages = _pages(num_bytes)
    with contextlib.suppress(OSError):  # a system without large pages is slower, nothing else
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
