"""The adapters that one slot serves at once: their rows on top of each other, each with its weight.

A sum of deltas is one delta whose A and B are stacked, so a blend is as exact as its parts, and a single
adapter is a stack of one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.errors import AdapterBlendError, AdapterNotFiniteError, AdapterRankError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference.lora.adapter import Adapter
    from inference.lora.block import OutputGain


@dataclass(frozen=True, slots=True)
class Stack:
    """`rank` rows of the arena hold it: the largest sum of ranks in any linear layer."""

    digest: str
    parts: Sequence[tuple[Adapter, float]]
    rank: int

    @property
    def targets(self) -> frozenset[tuple[int, str]]:
        """The (layer, linear) that any part touches."""
        return frozenset(key for adapter, _ in self.parts for block in adapter.blocks for key in block.keys)

    @property
    def gains(self) -> Mapping[tuple[int, str], OutputGain]:
        blocks = self.parts[0][0].blocks  # nothing with a gain is ever stacked on something else
        return {
            key: block.gain.of(index)
            for block in blocks
            if block.gain is not None
            for index, key in enumerate(block.keys)
        }


def stack_one(adapter: Adapter) -> Stack:
    return Stack(adapter.digest, ((adapter, 1.0),), _rank([adapter]))


def stack_blend(
    digest: str, parts: Sequence[tuple[Adapter, float]], max_rank: int, dtype: torch.dtype
) -> Stack:
    """Rows in the order of the adapters' digests, so that the order of `parts` does not change rounding.

    Raises `AdapterBlendError`, `AdapterRankError`, `AdapterNotFiniteError`.
    """
    for adapter, weight in parts:
        if adapter.is_dora:
            raise AdapterBlendError(
                adapter.digest,
                "a DoRA adapter cannot be blended: its gain multiplies the whole output, the others' deltas "
                "included, so what they compute together is no weighted sum of the parts",
            )
        if abs(weight) * adapter.peak > torch.finfo(dtype).max:
            raise AdapterNotFiniteError(adapter.digest, f"times {weight} it overflows the engine's dtype")
    rank = _rank([adapter for adapter, _ in parts])
    if rank > max_rank:
        raise AdapterRankError(digest, f"the blend's ranks add up to {rank}, over the limit of {max_rank}")
    return Stack(digest, sorted(parts, key=lambda part: part[0].digest), rank)


def _rank(adapters: Sequence[Adapter]) -> int:
    rows: Counter[tuple[int, str]] = Counter()
    for adapter in adapters:
        rows.update({key: block.rank for block in adapter.blocks for key in block.keys})
    return max(rows.values(), default=0)
