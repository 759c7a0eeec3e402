"""Shards adapters like the weights that they change.

A delta is linear in its input and output, so the rank's share of an adapter applies to the rank's own partial
output: no sums over ranks are needed besides those of the base model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from inference.lora.block import DoraScale
from inference.model.architecture import OUTER
from inference.model.shards import ROW_PARALLEL

if TYPE_CHECKING:
    from inference.lora.blend import Blend
    from inference.lora.block import LoraBlock
    from inference.model.shards import Shard


def shard_blend(shard: Shard, blend: Blend) -> Blend:
    """The rank's share of the adapters of `blend`."""
    if shard.size == 1:
        return blend
    parts = [
        (replace(adapter, blocks=[_shard_block(shard, block) for block in adapter.blocks]), weight)
        for adapter, weight in blend.parts
    ]
    return replace(blend, parts=parts)


def _shard_block(shard: Shard, block: LoraBlock) -> LoraBlock:
    if block.linear in OUTER:
        return block  # embeddings and head are replicated
    dora = None if block.dora is None else _shard_scale(shard, block.linear, block.dora)
    if block.linear in ROW_PARALLEL:
        return replace(block, shrink=shard.chunk(block.shrink, -1), dora=dora)
    return replace(block, expand=shard.chunk(block.expand, -1), dora=dora)


def _shard_scale(shard: Shard, linear: str, scale: DoraScale) -> DoraScale:
    factor = scale.factor if linear in ROW_PARALLEL else shard.chunk(scale.factor, -1)
    return DoraScale(factor, shard.bias(linear, scale.offset))
