"""Python bindings of the kernels in `cpp/`; tensors are passed as addresses and sizes."""

from __future__ import annotations

import ctypes
import functools
import logging
import math
from typing import TYPE_CHECKING, Any

import torch

from inference.errors import KernelBuildError
from inference.kernels.build import load_library
from inference.kernels.cpu import Arithmetic, has_int8_products, product_arithmetic, this_cpu
from inference.kernels.memory import address_of
from inference.kernels.native_attention import NativeAttention
from inference.kernels.native_products import Bfloat16Products, Int8Products, NativeLinear
from inference.kernels.native_step import NativeStep, projections
from inference.kernels.portable import AdditiveLora, PortableKernels, SegmentedLora

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.kernels.cpu import Cpu
    from inference.kernels.factors import StoredFactors, TensorSpec
    from inference.kernels.int8 import Int8Weight
    from inference.kernels.interface import (
        AttentionBatch,
        CompiledStep,
        HeadNorms,
        LoraBatch,
        LoraTarget,
        Pages,
        Projection,
        Rotation,
        Segment,
        SequenceSpan,
        StepModel,
    )

logger = logging.getLogger(__name__)

_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_STORED = (torch.float32, torch.bfloat16, torch.float16)  # `Format` in factors.h
DTYPES = frozenset(_SUFFIX)
_ATTENTION_ARITHMETICS = ("paired", "tiled")  # those with attention of their own; the others use floats
_FIXED_ROWS_OF_TILES = 32  # AMX computes a row in less time than others, next to that of reading the weights
_MAX_LARGEST = 16  # `LargestElements::kMaxSize` in probabilities.h
_MAX_CACHED_FACTORS = 1024  # adapters of one layout share theirs: between seven and a few hundred
# The deltas of longer segments are products large enough for the library that computes the base model's.
_MAX_NATIVE_TOKENS = 64

_Pointer, _Index, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _LoraTarget(ctypes.Structure):
    _fields_ = (
        ("shrink", _Pointer),
        ("expand", _Pointer),
        ("scales", _Pointer),
        ("out", _Index),
        ("column", _Index),
    )


class _StoredMatrix(ctypes.Structure):
    _fields_ = (("offset", _Index), ("format", _Index))


class _LoraSegment(ctypes.Structure):
    _fields_ = (("start", _Index), ("end", _Index), ("first_row", _Index), ("rank", _Index))


_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "add_rms_norm": (_Pointer, _Pointer, _Pointer, _Float, _Index, _Index, _Pointer),
    "silu_gate": (_Pointer, _Index, _Index, _Pointer),
    "rotate_and_store": (*[_Pointer] * 3, _Float, *[_Pointer] * 4, *[_Index] * 5, *[_Pointer] * 3),
    "attention": (*[_Pointer] * 3, *[_Index] * 4, _Float, _Index, _Pointer, _Index, _Pointer),
    "argmax": (_Pointer, _Index, _Index, _Pointer, _Pointer),
    "top_probabilities": (_Pointer, *[_Index] * 4, _Pointer, _Pointer),
    "sum_rows": (_Pointer, _Pointer, _Index, _Index, _Pointer, _Index, _Pointer),
    "add_lora": (_Pointer, _Index, _Pointer, _Index, _Pointer, _Index, _Pointer, _Index),
    "read_factors": (*[_Pointer] * 3, *[_Index] * 4, _Float, *[_Pointer] * 3),
}


class NativeKernels(PortableKernels):
    """Implements `inference.kernels.interface.Kernels` for CPUs, in float32 and bfloat16."""

    def __init__(
        self,
        dtype: torch.dtype,
        *,
        batch_invariant: bool = False,
        cpu: Cpu | None = None,
    ) -> None:
        """`batch_invariant`: deltas of long segments are computed token by token as well, and attention in
        one arithmetic. `cpu` selects the arithmetic; the default is this machine's. Raises `KernelBuildError`
        without a working compiler.
        """
        self.max_tokens = math.inf if batch_invariant else _MAX_NATIVE_TOKENS
        library = load_library()
        cpu = cpu or this_cpu()
        arithmetic = None if dtype != torch.bfloat16 else _arithmetic(library, cpu)
        self._functions = _functions(library, dtype)
        self._products = None if arithmetic is None else Bfloat16Products(library, arithmetic)
        self._int8_products = None
        if arithmetic is not None and has_int8_products(cpu):
            self._int8_products = Int8Products(library, arithmetic)
        self._has_tiles = arithmetic == "tiled"
        self._batch_invariant = batch_invariant
        self._attention = self._functions["attention"]
        if arithmetic in _ATTENTION_ARITHMETICS and not batch_invariant:
            self._attention = _function(library, "attention", arithmetic)
        # The sampler changes logits in float32.
        self._of_logits = {each: _functions(library, each) for each in (dtype, torch.float32)}
        self._targets: dict[tuple[LoraTarget, ...], ctypes.Array[_LoraTarget]] = {}

    @property
    def fixed_rows(self) -> int:
        return _FIXED_ROWS_OF_TILES if self._has_tiles else super().fixed_rows

    def projection(self, weight: Tensor, bias: Tensor | None) -> Projection | None:
        return None if self._products is None else self._products.projection(weight, bias)

    @property
    def has_int8_products(self) -> bool:
        return self._int8_products is not None

    def int8_projection(self, weight: Int8Weight, bias: Tensor | None) -> Projection:
        if self._int8_products is None:
            return super().int8_projection(weight, bias)
        return self._int8_products.projection(weight, bias)

    def add_rms_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        result = torch.empty_like(hidden)
        self._functions["add_rms_norm"](
            address_of(hidden),
            None if delta is None else address_of(delta),
            address_of(weight),
            epsilon,
            *hidden.shape,
            address_of(result),
        )
        return result

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        num_tokens, width = gate_up.shape
        result = gate_up.new_empty(num_tokens, width // 2)
        self._functions["silu_gate"](address_of(gate_up), num_tokens, width // 2, address_of(result))
        return result

    def rotate_and_store(
        self, qkv: Tensor, norms: HeadNorms | None, rotation: Rotation, kv_slots: Tensor, pages: Pages
    ) -> Tensor:
        num_kv_heads, head_dim, block_size = pages.keys.shape[1:]
        if rotation.cosine.shape[1] != head_dim:
            return super().rotate_and_store(qkv, norms, rotation, kv_slots, pages)
        num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
        queries = qkv.new_empty(len(qkv), num_heads, head_dim)
        self._functions["rotate_and_store"](
            address_of(qkv),
            None if norms is None else address_of(norms.query),
            None if norms is None else address_of(norms.key),
            0.0 if norms is None else norms.epsilon,
            address_of(rotation.cosine),
            address_of(rotation.sine),
            address_of(rotation.positions),
            address_of(kv_slots),
            *queries.shape[:2],
            num_kv_heads,
            head_dim,
            block_size,
            address_of(queries),
            address_of(pages.keys),
            address_of(pages.values),
        )
        return queries

    def attention_batch(self, spans: Sequence[SequenceSpan]) -> AttentionBatch:
        return NativeAttention(self._attention, spans)

    def argmax(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        values = rows.new_empty(len(rows), dtype=torch.float32)
        places = rows.new_empty(len(rows), dtype=torch.long)
        function = self._of_logits[rows.dtype]["argmax"]
        function(address_of(rows), *rows.shape, address_of(values), address_of(places))
        return values, places

    def top_probabilities(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        num_rows, width = logits.shape
        count = min(count, width)
        if count > _MAX_LARGEST:
            return super().top_probabilities(logits, count)
        rows = logits if logits.stride(1) == 1 else logits.contiguous()
        probabilities = rows.new_empty(num_rows, count, dtype=torch.float32)
        indices = rows.new_empty(num_rows, count, dtype=torch.long)
        self._of_logits[rows.dtype]["top_probabilities"](
            rows.data_ptr(),
            *(num_rows, width, rows.stride(0), count),
            address_of(probabilities),
            address_of(indices),
        )
        return probabilities, indices

    def sum_rows(self, weights: Tensor, indices: Tensor, table: Tensor) -> Tensor:
        width = table.shape[1]
        result = weights.new_empty(len(weights), width)
        arguments = address_of(weights), address_of(indices), *indices.shape
        self._functions["sum_rows"](*arguments, address_of(table), width, address_of(result))
        return result

    def compile_step(self, model: StepModel) -> CompiledStep | None:
        linears = projections(model.layers)
        packed = [each.products for each in linears if isinstance(each, NativeLinear)]
        if len(packed) < len(linears) or len(set(packed)) > 1:
            return None
        return NativeStep(packed[0].step, model, self.native_targets, batch_invariant=self._batch_invariant)

    def lora_batch(self, segments: Sequence[Segment], num_tokens: int) -> LoraBatch:  # noqa: ARG002  # of the interface
        return _NativeLora(self, segments)

    def native_targets(self, targets: tuple[LoraTarget, ...]) -> ctypes.Array[_LoraTarget]:
        native = self._targets.get(targets)
        if native is None:
            native = self._targets[targets] = _native_targets(targets)
        return native

    def add_lora(
        self,
        states: Tensor,
        targets: tuple[LoraTarget, ...],
        segments: ctypes.Array[_LoraSegment],
        output: Tensor,
    ) -> None:
        native = self.native_targets(targets)
        width = output.shape[1]
        self._functions["add_lora"](
            address_of(states),
            states.shape[1],
            native,
            len(native),
            segments,
            len(segments),
            address_of(output),
            width,
        )


class _NativeLora(AdditiveLora):
    def __init__(self, kernels: NativeKernels, segments: Sequence[Segment]) -> None:
        self._kernels = kernels
        short = [s for s in segments if s.end - s.start <= kernels.max_tokens]
        long = [s for s in segments if s.end - s.start > kernels.max_tokens]
        self.segments, self._short = _native_segments(segments), _native_segments(short)
        self._long = SegmentedLora(long)

    def project(self, linear: Projection, states: Tensor, targets: Sequence[LoraTarget]) -> Tensor:
        if isinstance(linear, NativeLinear):
            return linear.with_deltas(states, self._kernels.native_targets(tuple(targets)), self.segments)
        return super().project(linear, states, targets)

    def add(self, states: Tensor, targets: Sequence[LoraTarget], output: Tensor) -> None:
        if len(self._short):
            self._kernels.add_lora(states, tuple(targets), self._short, output)
        self._long.add(states, targets, output)


def _arithmetic(library: ctypes.CDLL, cpu: Cpu) -> Arithmetic | None:
    """Raises `KernelBuildError` if the compiler does not know the CPU's instructions."""
    arithmetic = product_arithmetic(cpu)
    if arithmetic is not None and not hasattr(library, f"multiply_{arithmetic}"):
        raise KernelBuildError(
            f"the compiler left out the {arithmetic} products: it does not know this CPU; use g++ 11 or newer"
        )
    if arithmetic == "tiled":
        library.may_use_tiled.restype = ctypes.c_bool
        if not library.may_use_tiled():
            arithmetic = product_arithmetic(cpu.without_tiles())
            logger.warning(
                "slower: the operating system does not grant AMX tile registers (Linux does from 5.16 on); "
                "products are computed with %s instead",
                "oneDNN" if arithmetic is None else "AVX-512",
            )
    return arithmetic


def _native_segments(segments: Sequence[Segment]) -> ctypes.Array[_LoraSegment]:
    return (_LoraSegment * len(segments))(
        *(_LoraSegment(s.start, s.end, s.rows.start, s.rows.stop - s.rows.start) for s in segments)
    )


def _native_targets(targets: Sequence[LoraTarget]) -> ctypes.Array[_LoraTarget]:
    return (_LoraTarget * len(targets))(
        *(
            _LoraTarget(
                address_of(target.shrink),
                address_of(target.expand),
                None if target.scales is None else address_of(target.scales),
                target.expand.shape[1],
                target.columns.start,
            )
            for target in targets
        )
    )


class NativeFactorReader:
    """Implements `inference.kernels.factors.FactorReader` in one pass over the file."""

    def __init__(self, dtype: torch.dtype) -> None:
        """`dtype` is one of `DTYPES`. Raises `KernelBuildError` without a working compiler."""
        self._read = _functions(load_library(), dtype)["read_factors"]

    def read_factors(
        self, weights: memoryview, factors: StoredFactors, shrink: Tensor, expand: Tensor
    ) -> tuple[float, float]:
        """Numbers below fp32's normal range may be flushed to zero."""
        peaks = (_Float * 2)()
        self._read(
            address_of(torch.frombuffer(weights, dtype=torch.uint8)),
            *_stored_matrices(factors),
            *shrink.shape,
            expand.shape[2],
            factors.scaling,
            address_of(shrink),
            address_of(expand),
            peaks,
        )
        return peaks[0], peaks[1]


@functools.lru_cache(_MAX_CACHED_FACTORS)
def _stored_matrices(
    factors: StoredFactors,
) -> tuple[ctypes.Array[_StoredMatrix], ctypes.Array[_StoredMatrix]]:
    """A and B of each layer."""

    def native(matrices: Sequence[TensorSpec]) -> ctypes.Array[_StoredMatrix]:
        stored = (_StoredMatrix(each.start, _STORED.index(each.dtype)) for each in matrices)
        return (_StoredMatrix * len(matrices))(*stored)

    return native(factors.downs), native(factors.ups)


def _functions(library: ctypes.CDLL, dtype: torch.dtype) -> dict[str, Any]:
    return {name: _function(library, name, _SUFFIX[dtype]) for name in _ARGUMENTS}


def _function(library: ctypes.CDLL, name: str, suffix: str) -> Any:
    function = library[f"{name}_{suffix}"]
    function.argtypes, function.restype = _ARGUMENTS[name], None
    return function
