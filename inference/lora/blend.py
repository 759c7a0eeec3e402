"""The adapters of one slot, each with its weight.

A sum of deltas is one delta whose A and B are concatenated along the rank, so a blend is as exact as its
parts, and a single adapter is a blend of one.
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
    from inference.lora.block import DoraScale


@dataclass(frozen=True, slots=True)
class Blend:
    """Weighted adapters that share a slot. `rank` is the number of arena rows that they need: the largest sum
    of ranks in any linear layer.
    """

    digest: str
    parts: Sequence[tuple[Adapter, float]]
    rank: int

    @property
    def keys(self) -> frozenset[tuple[int, str]]:
        """The (layer, linear) that any part changes."""
        return frozenset(key for adapter, _ in self.parts for block in adapter.blocks for key in block.keys)

    @property
    def invocation(self) -> tuple[int, ...]:
        """Tokens from which on the adapter is active; empty: it is always active. Such an adapter is never
        blended with another one.
        """
        return next((adapter.invocation for adapter, _ in self.parts), ())

    @property
    def dora(self) -> Mapping[tuple[int, str], DoraScale]:
        blocks = self.parts[0][0].blocks  # an adapter with DoRA is never blended with another one
        return {
            key: block.dora.layer(index)
            for block in blocks
            if block.dora is not None
            for index, key in enumerate(block.keys)
        }


def single_blend(adapter: Adapter) -> Blend:
    """The blend of one adapter, with weight 1."""
    return Blend(adapter.digest, ((adapter, 1.0),), _rank([adapter]))


def build_blend(
    digest: str, parts: Sequence[tuple[Adapter, float]], max_rank: int, dtype: torch.dtype
) -> Blend:
    """Sorts the parts by digest, so that the order of `parts` does not change rounding.

    Raises `AdapterBlendError`, `AdapterRankError`, `AdapterNotFiniteError`.
    """
    for adapter, weight in parts:
        if adapter.is_dora:
            raise AdapterBlendError(
                adapter.digest,
                "a DoRA adapter cannot be blended: it scales the whole output, the other adapters' deltas "
                "included, so the result is no weighted sum of deltas",
            )
        if adapter.invocation:
            raise AdapterBlendError(
                adapter.digest,
                "an activated LoRA (aLoRA) cannot be blended: it begins at its own tokens",
            )
        if abs(weight) * adapter.peak > torch.finfo(dtype).max:
            raise AdapterNotFiniteError(adapter.digest, f"overflows the engine's dtype at weight {weight}")
    rank = _rank([adapter for adapter, _ in parts])
    if rank > max_rank:
        raise AdapterRankError(digest, f"the blend's ranks add up to {rank}, over the limit of {max_rank}")
    return Blend(digest, sorted(parts, key=lambda part: part[0].digest), rank)


def _rank(adapters: Sequence[Adapter]) -> int:
    rows: Counter[tuple[int, str]] = Counter()
    for adapter in adapters:
        rows.update({key: block.rank for block in adapter.blocks for key in block.keys})
    return max(rows.values(), default=0)
