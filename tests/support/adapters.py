"""Adapters matrix by matrix, as tests compare them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.lora.block import OutputGain


class Pair(NamedTuple):
    shrink: Tensor  # [rank, in_features]
    expand: Tensor  # [rank, out_features]
    gain: OutputGain | None


def pairs(adapter: Adapter) -> dict[tuple[int, str], Pair]:
    """By (layer, linear)."""
    found = {
        key: Pair(
            block.shrink[index], block.expand[index], None if block.gain is None else block.gain.of(index)
        )
        for block in adapter.blocks
        for index, key in enumerate(block.keys)
    }
    assert len(found) == sum(len(block.layers) for block in adapter.blocks)
    return found
