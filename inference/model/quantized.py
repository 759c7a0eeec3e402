"""Linear layers with weights in 8 or 4 bits; states, biases and adapters stay in the model's dtype.

torchao quantises and packs. The products call torch's kernels directly, because the dispatch of torchao's
tensor subclasses costs more than the product of one token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional

from inference.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

_GROUP = 32  # input features that share a scale and a zero point in 4 bits
_ROW_MULTIPLE = 16  # rows that the 4-bit kernel packs together
_MAX_INT8_TOKENS = 4  # for more tokens, torch's product with the widened weight is faster than the 8-bit one


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """Symmetric quantisation with one scale per row: weight = values * scales."""

    values: Tensor  # [out, in] int8
    scales: Tensor  # [out]
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int8Linear:
        from torchao.quantization import Int8Tensor, PerRow

        packed = Int8Tensor.from_hp(weight, PerRow())
        return cls(packed.qdata, packed.scale.flatten().to(weight.dtype), bias)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, [out, in] in the dtype of the scales."""
        return self.values.to(self.scales.dtype) * self.scales.unsqueeze(1)

    def __call__(self, states: Tensor) -> Tensor:
        if len(states) <= _MAX_INT8_TOKENS and states.device.type == "cpu":
            product = torch._weight_int8pack_mm(states, self.values, self.scales)  # noqa: SLF001  # no public name
        else:
            product = functional.linear(states, self.values.to(states.dtype)).mul_(self.scales)
        return product if self.bias is None else product.add_(self.bias)


@dataclass(frozen=True, slots=True)
class Int4Linear:
    """Asymmetric quantisation with a scale and zero point per group, in the layout of torch's CPU kernel."""

    packed: Tensor  # [out, in / 2] uint8
    scales_and_zeros: Tensor  # [in / group, out, 2]
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int4Linear:
        """Raises `UnsupportedModelError` for a device or shape that the kernel does not support."""
        from torchao.prototype.quantization.int4 import Int4OpaqueTensor

        num_rows, num_columns = weight.shape
        if weight.device.type != "cpu":
            raise UnsupportedModelError("int4 weights are served on CPUs; choose int8 or none")
        if num_rows % _ROW_MULTIPLE or num_columns % _GROUP:
            raise UnsupportedModelError(
                f"int4 needs weights with rows in multiples of {_ROW_MULTIPLE} and columns in multiples of "
                f"{_GROUP}, not [{num_rows}, {num_columns}]; choose int8 or none"
            )
        packed = Int4OpaqueTensor.from_hp(weight, [1, _GROUP])
        return cls(packed.qdata, packed.scale_and_zero, bias)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, [out, in]: its product with the identity, because only the kernel knows the
        layout.
        """
        num_columns = len(self.scales_and_zeros) * _GROUP
        identity = torch.eye(num_columns, dtype=self.scales_and_zeros.dtype)
        return self._multiply(identity).T.contiguous()

    def __call__(self, states: Tensor) -> Tensor:
        product = self._multiply(states)
        return product if self.bias is None else product.add_(self.bias)

    def _multiply(self, states: Tensor) -> Tensor:
        product = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001  # no public name
            states, self.packed, _GROUP, self.scales_and_zeros
        )
        return cast("Tensor", product)


def served_weight(weight: Tensor, quantization: str) -> Tensor:
    """`weight` [out, in] quantised and dequantised."""
    if quantization == "int8":
        return Int8Linear.of(weight, None).weight
    if quantization == "int4":
        padded = functional.pad(weight, (0, 0, 0, -len(weight) % _ROW_MULTIPLE))
        return Int4Linear.of(padded, None).weight[: len(weight)]
    return weight
