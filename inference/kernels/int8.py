"""Products of weights and states in 8 bits: their definition, in plain torch.

Rows are rotated, then quantised by their largest absolute value: a weight's row, which is one output, when it
is loaded; a token's row of states at each product. The rotation changes no product, and spreads the few large
features of a token over their block, so that they do not take the steps of all others (Ashkboos et al. 2024,
"QuaRot", https://arxiv.org/abs/2404.00456). Products of integers are summed without rounding: any number of
tokens, any order of summation and any CPU gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from inference.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 64  # features that are rotated together, kInt8Depth in int8.h
_STEPS = 127  # between zero and the largest absolute value of a row; -128 is not used
_SMALLEST = 2.0**-100  # of a row's largest value: its reciprocal is finite. Smaller rows become zeros.
_MAX_WIDTH = 2**17  # inputs whose sums of products, each up to 128 * 128, fit into 32 bits


def rotate_rows(rows: Tensor) -> Tensor:
    """The Walsh-Hadamard transform of each block of 64 features of `rows` [n, width], in fp32, [n, width
    rounded up to whole blocks]. Applied twice, it multiplies by 64.
    """
    rotated = functional.pad(rows.float(), (0, -rows.shape[1] % _BLOCK))
    half = _BLOCK // 2
    while half:
        first, second = rotated.view(len(rows), -1, 2, half).unbind(2)
        rotated = torch.stack((first + second, first - second), dim=2).flatten(1)
        half //= 2
    return rotated


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`values` [n, width] in int8 and `scales` [n] in fp32, such that `rows` [n, width] are about values *
    scales. Halves are rounded to even. The scale of a row with NaN or infinity is not finite.
    """
    peaks = rows.abs().amax(dim=1).clamp(min=_SMALLEST)
    # Not `_STEPS / peaks`, which torch computes as _STEPS * (1 / peaks).
    factors = torch.full_like(peaks, _STEPS) / peaks
    values = (rows * factors.unsqueeze(1)).round()
    return values.nan_to_num(0.0).to(torch.int8), peaks / _STEPS


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A rotated and quantised weight."""

    values: Tensor  # [out, width rounded up to whole blocks] int8
    scales: Tensor  # [out] fp32, over 64: of products with rotated states
    width: int

    @classmethod
    def of(cls, weight: Tensor) -> Int8Weight:
        """Quantise `weight` [out, in]. Raises `UnsupportedModelError` for one of more than 2^17 inputs."""
        width = weight.shape[1]
        if width > _MAX_WIDTH:
            raise UnsupportedModelError(
                f"int8 sums at most {_MAX_WIDTH} inputs without overflow, not {width}; choose none"
            )
        values, scales = quantize_rows(rotate_rows(weight))
        return cls(values, scales / _BLOCK, width)

    @property
    def dequantized(self) -> Tensor:
        """What the weight stands for, [out, in] in fp32."""
        return rotate_rows(self.values * self.scales.unsqueeze(1))[:, : self.width]


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """Implements `inference.kernels.interface.Projection` on CPUs, for states in any dtype."""

    weight: Int8Weight
    bias: Tensor | None  # [out]

    def __call__(self, states: Tensor) -> Tensor:
        values, scales = quantize_rows(rotate_rows(states))
        # Exact. torch's product of integers saturates 16-bit sums on some CPUs.
        sums = values.double() @ self.weight.values.double().T
        product = sums.float() * scales.unsqueeze(1) * self.weight.scales
        return (product if self.bias is None else product + self.bias.float()).to(states.dtype)
