"""Which part of a model one rank of several holds.

Projections that widen (qkv, gate_up) are cut by output features, so each rank has some heads and some of the
MLP's features. Those that narrow (o, down) are cut by input features: each rank computes a summand of the
whole output. Adapters are cut like the weights that they change, and as all they do to an output is linear, a
rank's share of an adapter is applied to the rank's own summand: nothing but the output is ever summed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inference.errors import UnsupportedModelError
from inference.lora.block import LoraBlock, OutputGain

if TYPE_CHECKING:
    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.lora.stack import Stack
    from inference.model.architecture import Architecture

_NARROWING = frozenset({"o_proj", "down_proj"})


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `size`."""

    rank: int
    size: int

    def architecture(self, whole: Architecture) -> Architecture:
        """The rank's own decoder: fewer heads and a narrower MLP, everything else the same.

        Raises `UnsupportedModelError` where the model cannot be divided evenly.
        """
        for name in ("num_heads", "num_kv_heads", "intermediate_size"):
            count = getattr(whole, name)
            if count % self.size:
                raise UnsupportedModelError(
                    f"the model's {name} of {count} cannot be divided among {self.size} ranks; choose a "
                    "tensor_parallel that divides it"
                )
        return replace(
            whole,
            num_heads=whole.num_heads // self.size,
            num_kv_heads=whole.num_kv_heads // self.size,
            intermediate_size=whole.intermediate_size // self.size,
        )

    def weight(self, linear: str, weight: Tensor) -> Tensor:
        """The rank's share of `weight` [out, in]."""
        return self._part(weight, 1 if linear in _NARROWING else 0)

    def bias(self, linear: str, bias: Tensor | None) -> Tensor | None:
        """The rank's share of `bias` [..., out]; what is summed up takes it from the first rank alone."""
        if bias is None or linear not in _NARROWING:
            return None if bias is None else self._part(bias, -1)
        return bias if self.rank == 0 else None

    def stack(self, stack: Stack) -> Stack:
        """The rank's share of adapters."""
        if self.size == 1:
            return stack
        return replace(stack, parts=[(self._adapter(adapter), weight) for adapter, weight in stack.parts])

    def _adapter(self, adapter: Adapter) -> Adapter:
        return replace(adapter, blocks=[self._block(block) for block in adapter.blocks])

    def _block(self, block: LoraBlock) -> LoraBlock:
        gain = None if block.gain is None else self._gain(block.linear, block.gain)
        if block.linear in _NARROWING:
            return replace(block, shrink=self._part(block.shrink, -1), gain=gain)
        return replace(block, expand=self._part(block.expand, -1), gain=gain)

    def _gain(self, linear: str, gain: OutputGain) -> OutputGain:
        factor = gain.factor if linear in _NARROWING else self._part(gain.factor, -1)
        return OutputGain(factor, self.bias(linear, gain.offset))

    def _part(self, tensor: Tensor, dimension: int) -> Tensor:
        if self.size == 1:
            return tensor
        return tensor.chunk(self.size, dimension)[self.rank].contiguous()


WHOLE = Shard(0, 1)
