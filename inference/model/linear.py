"""Matrix products of the base model for each storage format of the weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from inference.kernels.int8 import Int8Weight

if TYPE_CHECKING:
    from torch import Tensor

    from inference.config import Quantization
    from inference.kernels.interface import Kernels, Projection

_BLOCK_ROWS = 32
_PACKED_DTYPES = frozenset({torch.float32, torch.bfloat16})


@dataclass(frozen=True, slots=True)
class Linear:
    """The plain projection: weight [out, in] and an optional bias [out]."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A weight reordered once into oneDNN's layout, instead of at every product."""

    weight: Tensor  # opaque to torch
    bias: Tensor | None

    def __call__(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001  # no public name
            states, self.weight, self.bias, "none", [], ""
        )
        return product


@dataclass(frozen=True, slots=True)
class BlockwiseLinear:
    """Divides the batch into products of a fixed number of rows, the last one padded: a token's bits depend
    neither on the number of tokens nor on its row.
    """

    product: Projection

    def __call__(self, states: Tensor) -> Tensor:
        num_tokens = len(states)
        padded = functional.pad(states, (0, 0, 0, -num_tokens % _BLOCK_ROWS))
        blocks = [self.product(block) for block in torch.split(padded, _BLOCK_ROWS)]
        return (blocks[0] if len(blocks) == 1 else torch.cat(blocks))[:num_tokens]


def make_linear(
    weight: Tensor,
    bias: Tensor | None,
    kernels: Kernels,
    quantization: Quantization = "none",
    *,
    batch_invariant: bool = False,
) -> Projection:
    """The fastest projection with `weight` [out, in] on its device.

    Raises `UnsupportedModelError` for a weight that cannot be quantised as requested.
    """
    if quantization == "int8":
        return kernels.int8_projection(Int8Weight.of(weight), bias)
    native = kernels.projection(weight, bias)
    if native is not None:
        return native
    product = _torch_projection(weight, bias)
    return BlockwiseLinear(product) if batch_invariant else product


def _torch_projection(weight: Tensor, bias: Tensor | None) -> Projection:
    if weight.device.type != "cpu" or weight.dtype not in _PACKED_DTYPES or not _has_onednn(weight.dtype):
        return Linear(weight, bias)
    return PackedLinear(torch.ops.mkldnn._reorder_linear_weight(weight, None), bias)  # noqa: SLF001  # no public name


def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch has no types for it
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001  # no public name
