"""Where a decode step's time goes, and what the machine allows."""

from __future__ import annotations

import cProfile
import pstats
import time
from typing import TYPE_CHECKING, TypeVar

import torch

from inference.model.architecture import PARENT_BY_LINEAR
from inference.model.linear import make_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.model.architecture import Architecture
    from inference.model.linear import Projection

T = TypeVar("T")

# What a part is made of: names of functions whose time, that of what they call included, is its own.
PARTS = {
    "products": ("<built-in method torch._ops.mkldnn._linear_pointwise>",),
    "deltas": ("add_lora",),
    "attention": ("token_attention",),
    "row_operations": ("add_rms_norm", "silu_gate", "rotate_and_store"),
    "argmax": ("argmax",),
}
_ROUNDS = 7
_PEAK_ROWS = 512  # enough to keep the arithmetic units busy whatever the memory does


class StepProfile:
    """Times whole steps and their parts. The profiler's own cost lands in `rest`, about a millisecond."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()
        self._seconds = 0.0
        self._num_steps = 0

    def step(self, advance: Callable[[], T]) -> T:
        began = time.perf_counter()
        result: T = self._profile.runcall(advance)
        self._seconds += time.perf_counter() - began
        self._num_steps += 1
        return result

    def milliseconds(self) -> dict[str, float]:
        """A step's mean, and that of each part; `rest` is what lies between them. Raises `ValueError` when
        nothing was timed.
        """
        if self._num_steps == 0:
            raise ValueError("no step was timed")
        stats = pstats.Stats(self._profile).stats  # type: ignore[attr-defined]  # documented, not in the stubs
        seconds = {
            part: sum(entry[3] for (_, _, name), entry in stats.items() if name in names)
            for part, names in PARTS.items()
        }
        seconds["rest"] = self._seconds - sum(seconds.values())
        each = {f"{part}_ms": 1000 * spent / self._num_steps for part, spent in seconds.items()}
        return {"step_ms": 1000 * self._seconds / self._num_steps, **each}


def limits(architecture: Architecture, num_rows: int) -> dict[str, float]:
    """The base model's products and nothing else for a step of `num_rows` tokens, weights from memory as in a
    step; what they would take at the arithmetic peak; and how fast weights can be read.
    """
    shapes = [architecture.linear_shape(linear)[::-1] for linear in PARENT_BY_LINEAR]
    shapes = [*shapes * architecture.num_layers, (architecture.vocab_size, architecture.hidden_size)]
    linears = [make_linear(torch.randn(shape).bfloat16(), None) for shape in shapes]
    num_weights = sum(rows * columns for rows, columns in shapes)
    alone = _fastest(linears, [torch.randn(num_rows, shape[1]).bfloat16() for shape in shapes])
    single = _fastest(linears, [torch.randn(1, shape[1]).bfloat16() for shape in shapes])
    largest = max(shapes[:-1], key=lambda shape: shape[0] * shape[1])
    hot = [linears[shapes.index(largest)]] * 10
    peak_seconds = _fastest(hot, [torch.randn(_PEAK_ROWS, largest[1]).bfloat16()] * len(hot))
    peak = 2 * _PEAK_ROWS * largest[0] * largest[1] * len(hot) / peak_seconds
    return {
        "products_alone_ms": 1000 * alone,
        "products_at_peak_ms": 1000 * 2 * num_rows * num_weights / peak,
        "peak_gflop_s": peak / 1e9,
        "read_gb_s": 2 * num_weights / single / 1e9,
    }


@torch.inference_mode()
def _fastest(linears: Sequence[Projection], states: Sequence[torch.Tensor]) -> float:
    """Seconds of the fastest of some rounds through all."""
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for linear, rows in zip(linears, states, strict=True):
            linear(rows)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
