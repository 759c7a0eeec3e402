"""Profiles decode steps and measures the limits of the machine."""

from __future__ import annotations

import cProfile
import pstats
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import torch

import inference
from inference.kernels.portable import PortableKernels
from inference.kernels.select import select_kernels
from inference.model.linear import make_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from inference.kernels.interface import Kernels, Projection
    from inference.model.architecture import Architecture

T = TypeVar("T")

# By part: the functions whose cumulative time it is. Only projections are called through `__call__`, or
# through `with_deltas` when adapter deltas are computed in the same pass; `run` is a compiled step.
PARTS = {
    "layers": ("run",),
    "products": ("__call__", "with_deltas"),
    "deltas": ("add_lora",),
    "attention": ("attend",),
    "row_operations": ("add_rms_norm", "silu_gate", "rotate_and_store"),
    "argmax": ("argmax",),
}
_ENGINE = Path(inference.__file__).parent
_ROUNDS = 7
_PEAK_ROWS, _PEAK_WIDTH = 512, 1024  # large enough to be bound by arithmetic, not by memory


class StepProfile:
    """Times whole steps and, in every second one, their parts. The profiler's overhead, about a millisecond,
    is in `rest`, and not in the time of whole steps.
    """

    def __init__(self, code: Path = _ENGINE) -> None:
        """`code`: the folder whose functions are counted as parts."""
        self._code = code
        self._profile = cProfile.Profile()
        self._plain: list[float] = []  # seconds of steps
        self._profiled: list[float] = []

    def step(self, advance: Callable[[], T]) -> T:
        is_plain = len(self._plain) == len(self._profiled)
        began = time.perf_counter()
        result: T = advance() if is_plain else self._profile.runcall(advance)
        (self._plain if is_plain else self._profiled).append(time.perf_counter() - began)
        return result

    def milliseconds(self) -> dict[str, float]:
        """Median time of a step, and mean time of each part of a profiled one; `rest` is the remainder.
        Raises `ValueError` if no step was profiled.
        """
        if not self._profiled:
            raise ValueError("no step was profiled")
        stats = pstats.Stats(self._profile).stats  # type: ignore[attr-defined]  # documented, not in the stubs
        own = {key: entry for key, entry in stats.items() if Path(key[0]).is_relative_to(self._code)}
        seconds = {
            part: sum(_outermost(entry, names) for (_, _, name), entry in own.items() if name in names)
            for part, names in PARTS.items()
        }
        seconds["rest"] = sum(self._profiled) - sum(seconds.values())
        mean = {f"{part}_ms": 1000 * spent / len(self._profiled) for part, spent in seconds.items()}
        return {"step_ms": 1000 * median(self._plain), **mean}


def _outermost(entry: tuple[Any, ...], names: Collection[str]) -> float:
    """Seconds of a function, without calls by one of `names`, which already include them."""
    _, _, _, seconds, callers = entry
    return float(seconds - sum(caller[3] for (_, _, name), caller in callers.items() if name in names))


def limits(architecture: Architecture, num_rows: int) -> dict[str, float]:
    """Limits of the machine for a step of `num_rows` tokens: time of the base model's products alone, with
    weights from memory as in a step, with our kernels and with torch; their time at the arithmetic peak, the
    best that torch or our kernels reach with cached weights; and the bandwidth of reading weights.
    """
    kernels = select_kernels("auto", torch.bfloat16, "cpu")
    shapes = [architecture.linear_shape(linear)[::-1] for _, linear in architecture.linear_keys]
    shapes.append((architecture.vocab_size, architecture.hidden_size))
    linears = [make_linear(torch.randn(shape).bfloat16(), None, kernels) for shape in shapes]
    num_weights = sum(rows * columns for rows, columns in shapes)
    torchs = [make_linear(torch.randn(shape).bfloat16(), None, PortableKernels()) for shape in shapes]
    states = [torch.randn(num_rows, shape[1]).bfloat16() for shape in shapes]
    single = _fastest(linears, [torch.randn(1, shape[1]).bfloat16() for shape in shapes])
    peak = max(
        _peak(kernels, torch.bfloat16),
        _peak(PortableKernels(), torch.bfloat16),
        _peak(PortableKernels(), torch.float32),
    )
    return {
        "products_alone_ms": 1000 * _fastest(linears, states),
        "products_of_torch_ms": 1000 * _fastest(torchs, states),
        "products_at_peak_ms": 1000 * 2 * num_rows * num_weights / peak,
        "peak_gflop_s": peak / 1e9,
        "read_gb_s": 2 * num_weights / single / 1e9,
    }


def _peak(kernels: Kernels, dtype: torch.dtype) -> float:
    """Operations per second of large products, repeated with the same weight."""
    weight = torch.randn(_PEAK_WIDTH, _PEAK_WIDTH).to(dtype)
    linears = [make_linear(weight, None, kernels)] * 10
    seconds = _fastest(linears, [torch.randn(_PEAK_ROWS, _PEAK_WIDTH).to(dtype)] * len(linears))
    return 2 * _PEAK_ROWS * weight.numel() * len(linears) / seconds


@torch.inference_mode()
def _fastest(linears: Sequence[Projection], states: Sequence[torch.Tensor]) -> float:
    """Seconds of the fastest of `_ROUNDS` rounds through all products."""
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for linear, rows in zip(linears, states, strict=True):
            linear(rows)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
