"""Binding of `cpp/products.h` and `cpp/int8.h`: products with packed weights."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

from inference.kernels.memory import LargePages, address_of

if TYPE_CHECKING:
    from torch import Tensor

    from inference.kernels.cpu import Arithmetic
    from inference.kernels.int8 import Int8Weight

_Pointer, _Index = ctypes.c_void_p, ctypes.c_int64
_DEPTH: dict[Arithmetic, int] = {"widened": 1, "paired": 2, "tiled": 32}  # inputs per step, kDepth there
_INT8_OUTPUT_BYTES = 8  # of each output's scale and offset, Int8Outputs in int8.h
_NONE = (ctypes.c_byte * 0)()


class LinearLayout(ctypes.Structure):
    """A packed weight, `Linear` in products.h."""

    _fields_ = (("packed", _Pointer), ("bias", _Pointer), ("in_width", _Index), ("out_width", _Index))


class _Products:
    """The functions of products.h and step.h for one arithmetic, and memory for weights."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.step = library[f"decoder_step_{name}"]
        self.multiply = library[f"multiply_{name}"]
        self.multiply.argtypes = (
            *(_Pointer, _Index, _Index, _Pointer, _Pointer, _Index),
            *(_Pointer, _Index, _Pointer, _Index, _Pointer),
        )
        self.multiply.restype = None
        library.panel_outputs.restype = _Index
        self._panel = library.panel_outputs()
        self._memory = LargePages()


class Bfloat16Products(_Products):
    """Products with weights in bfloat16."""

    def __init__(self, library: ctypes.CDLL, arithmetic: Arithmetic) -> None:
        super().__init__(library, arithmetic)
        self._depth = _DEPTH[arithmetic]
        self._pack = library[f"pack_{arithmetic}"]
        self._pack.argtypes, self._pack.restype = (_Pointer, _Index, _Index, _Pointer), None

    def projection(self, weight: Tensor, bias: Tensor | None) -> NativeLinear:
        out, width = weight.shape
        shape = -(-out // self._panel), -(-width // self._depth) * self._depth, self._panel
        packed = self._memory.zeros(shape, weight.dtype)
        self._pack(address_of(weight), out, width, address_of(packed))
        return NativeLinear(self, packed, bias, width, out)


class Int8Products(_Products):
    """Products with weights in 8 bits, with the bits of `inference.kernels.int8.Int8Linear`."""

    def __init__(self, library: ctypes.CDLL, arithmetic: Arithmetic) -> None:
        """`arithmetic`: of attention, and of the products of this CPU in bfloat16."""
        super().__init__(library, f"int8_{arithmetic}")
        self._pack = library["pack_int8"]
        self._pack.argtypes = (_Pointer, _Pointer, _Index, _Index, _Pointer)
        self._pack.restype = None

    def projection(self, weight: Int8Weight, bias: Tensor | None) -> NativeLinear:
        out, padded = weight.values.shape
        shape = -(-out // self._panel), (padded + _INT8_OUTPUT_BYTES) * self._panel
        packed = self._memory.zeros(shape, torch.int8)
        self._pack(address_of(weight.values), address_of(weight.scales), out, padded, address_of(packed))
        return NativeLinear(self, packed, bias, weight.width, out)


class NativeLinear:
    """A packed weight; implements `inference.kernels.interface.Projection`."""

    def __init__(
        self, products: _Products, packed: Tensor, bias: Tensor | None, width: int, out: int
    ) -> None:
        """`packed`: by `products`, of a weight [`out`, `width`]; `bias` [out]."""
        self.products, self._out = products, out
        self._tensors = packed, bias  # keep alive the memory at the addresses below
        self._weight, self._bias = address_of(packed), None if bias is None else address_of(bias)
        self.layout = LinearLayout(self._weight, self._bias, width, out)

    def __call__(self, states: Tensor) -> Tensor:
        return self.with_deltas(states, _NONE, _NONE)

    def with_deltas(self, states: Tensor, targets: ctypes.Array[Any], segments: ctypes.Array[Any]) -> Tensor:
        """The product and the deltas of `targets` and `segments` (of lora.h) in one pass, rounded once,
        [num_tokens, out].
        """
        num_tokens, width = states.shape
        result = states.new_empty(num_tokens, self._out)
        self.products.multiply(
            address_of(states),
            num_tokens,
            width,
            self._weight,
            self._bias,
            self._out,
            targets,
            len(targets),
            segments,
            len(segments),
            address_of(result),
        )
        return result
