"""Binding of `cpp/step.h`: a whole step of a decoder in one call."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

from inference.kernels.memory import address_of
from inference.kernels.native_products import LinearLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from inference.kernels.interface import (
        AttentionBatch,
        LoraTarget,
        Projection,
        StepDeltas,
        StepLayer,
        StepModel,
    )

_Pointer, _Index, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_PROJECTIONS = ("qkv", "o", "gate_up", "down")  # `Projection` in step.h
_MAX_CACHED_TARGETS = 16  # as many as the arena caches


class _Layer(ctypes.Structure):
    _fields_ = (
        *(("attention_norm", _Pointer), ("mlp_norm", _Pointer)),
        *((name, LinearLayout) for name in _PROJECTIONS),
        *(("query_norm", _Pointer), ("key_norm", _Pointer), ("epsilon", _Float)),
        *(("cosine", _Pointer), ("sine", _Pointer), ("is_rotated", _Index), ("window", _Index)),
        *(("keys", _Pointer), ("values", _Pointer)),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *(("layers", ctypes.POINTER(_Layer)), ("num_layers", _Index), ("final_norm", _Pointer)),
        *(("epsilon", _Float), ("attention_scale", _Float)),
        *(("num_heads", _Index), ("num_kv_heads", _Index), ("head_dim", _Index), ("block_size", _Index)),
        *(("hidden_size", _Index), ("mlp_width", _Index)),
    )


class _Targets(ctypes.Structure):
    _fields_ = (("targets", _Pointer), ("num_targets", _Index))


class _Batch(ctypes.Structure):
    _fields_ = (
        *(("tokens", _Index), ("positions", _Pointer), ("kv_slots", _Pointer)),
        *(("spans", _Pointer), ("num_spans", _Index), ("segments", _Pointer), ("num_segments", _Index)),
        ("targets", _Pointer),
    )


class NativeStep:
    """Implements `inference.kernels.interface.CompiledStep` for bfloat16."""

    def __init__(
        self,
        function: Any,
        model: StepModel,
        native_targets: Callable[[tuple[LoraTarget, ...]], ctypes.Array[Any]],
        *,
        batch_invariant: bool,
    ) -> None:
        """`function` is `decoder_step` for the arithmetic that the projections are packed for."""
        function.argtypes, function.restype = (_Pointer, _Pointer, _Index, _Pointer, _Pointer), None
        self._function = function
        self._batch_invariant = batch_invariant
        self._native_targets = native_targets
        self._model = model  # keeps alive the memory at the addresses below
        self._layers = (_Layer * len(model.layers))(*(_layer(each) for each in model.layers))
        self._native = _native_model(model, self._layers)
        self._targets: dict[int, tuple[Any, ctypes.Array[_Targets]]] = {}

    def run(
        self,
        hidden: Tensor,
        positions: Tensor,
        kv_slots: Tensor,
        attention: AttentionBatch,
        deltas: StepDeltas | None,
    ) -> Tensor:
        spans: ctypes.Array[Any] = attention.spans  # type: ignore[attr-defined]  # of the same kernels
        batch = _Batch(len(hidden), address_of(positions), address_of(kv_slots))
        batch.spans, batch.num_spans = ctypes.addressof(spans), len(spans)
        if deltas is not None:
            segments: ctypes.Array[Any] = deltas.batch.segments  # type: ignore[attr-defined]  # likewise
            batch.segments, batch.num_segments = ctypes.addressof(segments), len(segments)
            batch.targets = ctypes.addressof(self._targets_of(deltas.targets))
        states = torch.empty_like(hidden)
        arguments = ctypes.addressof(self._native), ctypes.addressof(batch), int(self._batch_invariant)
        self._function(*arguments, address_of(hidden), address_of(states))
        return states

    def _targets_of(
        self, targets: Mapping[tuple[int, str], tuple[LoraTarget, ...]]
    ) -> ctypes.Array[_Targets]:
        """The native form of `targets`. Most steps pass the same mapping, because the arena caches it."""
        if id(targets) not in self._targets:
            if len(self._targets) == _MAX_CACHED_TARGETS:
                self._targets.clear()
            native = [
                self._native_targets(targets[layer, projection])
                for layer in range(len(self._layers))
                for projection in _PROJECTIONS
            ]
            found = (_Targets * len(native))(*(_Targets(ctypes.addressof(n), len(n)) for n in native))
            self._targets[id(targets)] = ((targets, native), found)
        return self._targets[id(targets)][1]


def _native_model(model: StepModel, layers: ctypes.Array[_Layer]) -> _Model:
    num_kv_heads, head_dim, block_size = model.layers[0].pages.keys.shape[1:]
    query_width = layers[0].o.in_width
    return _Model(
        layers,
        len(layers),
        address_of(model.final_norm),
        model.epsilon,
        model.attention_scale,
        *(query_width // head_dim, num_kv_heads, head_dim, block_size),
        *(layers[0].o.out_width, layers[0].down.in_width),
    )


def _layer(layer: StepLayer) -> _Layer:
    norms = layer.head_norms
    return _Layer(
        *(address_of(layer.attention_norm), address_of(layer.mlp_norm)),
        *(_layout(each) for each in (layer.qkv, layer.o, layer.gate_up, layer.down)),
        *((None, None) if norms is None else (address_of(norms.query), address_of(norms.key))),
        0.0 if norms is None else norms.epsilon,
        *(address_of(layer.rotation.cosine), address_of(layer.rotation.sine)),
        *(int(layer.is_rotated), layer.window),
        *(address_of(layer.pages.keys), address_of(layer.pages.values)),
    )


def _layout(linear: Projection) -> LinearLayout:
    layout: LinearLayout = linear.layout  # type: ignore[attr-defined]  # of a `NativeLinear`
    return layout


def projections(layers: Sequence[StepLayer]) -> list[Projection]:
    """All projections of a step."""
    return [each for layer in layers for each in (layer.qkv, layer.o, layer.gate_up, layer.down)]
