"""Tensor parallelism: the share of a model that one rank holds.

Projections that widen (qkv, gate_up) are column-parallel: they are split by output features, so each rank
has some heads and some of the MLP's features. Projections that narrow (o, down) are row-parallel: they are
split by input features, and the sum of all ranks' outputs is the output. See Shoeybi et al. 2019,
"Megatron-LM", https://arxiv.org/abs/1909.08053.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inference.errors import UnsupportedModelError
from inference.model.architecture import PROJECTIONS

if TYPE_CHECKING:
    from torch import Tensor

    from inference.model.architecture import Architecture

ROW_PARALLEL = frozenset({"o_proj", "down_proj"})


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `size`."""

    rank: int
    size: int

    def architecture(self, whole: Architecture) -> Architecture:
        """The rank's own decoder: fewer heads and a narrower MLP, otherwise the same.

        Raises `UnsupportedModelError` where the model cannot be divided evenly, or by this code.
        """
        if self.size > 1 and (whole.experts is not None or whole.projections is not PROJECTIONS):
            raise UnsupportedModelError(
                f"tensor_parallel does not divide {whole.family}: experts, and linear layers that the "
                "checkpoint stores fused, need one rank"
            )
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
        return self.chunk(weight, 1 if linear in ROW_PARALLEL else 0)

    def bias(self, linear: str, bias: Tensor | None) -> Tensor | None:
        """The rank's share of `bias` [..., out]. Outputs that are summed over ranks get it from rank 0
        only.
        """
        if bias is None or linear not in ROW_PARALLEL:
            return None if bias is None else self.chunk(bias, -1)
        return bias if self.rank == 0 else None

    def chunk(self, tensor: Tensor, dimension: int) -> Tensor:
        """The rank's share of `tensor`, divided evenly along `dimension`."""
        if self.size == 1:
            return tensor
        return tensor.chunk(self.size, dimension)[self.rank].contiguous()


WHOLE = Shard(0, 1)
