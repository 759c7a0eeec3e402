"""The decoder of the Llama family over a flat batch of tokens: no padding, no batch dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from inference.model.attention import AttentionGroup, attend
from inference.model.rotary import RotaryTable, rotate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.model.architecture import Architecture
    from inference.model.kv_cache import KVCache


class Projection(Protocol):
    """A fused projection, however its weight is stored."""

    def __call__(self, states: Tensor) -> Tensor:
        """[num_tokens, out] for `states` [num_tokens, in]; a new tensor, which adapters add to in place."""


@dataclass(frozen=True, slots=True)
class Linear:
    """The plain projection: weight [out, in] and an optional bias [out]."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    input_norm: Tensor
    qkv: Projection
    query_norm: Tensor | None  # Qwen3 normalises each head's queries and keys
    key_norm: Tensor | None
    o: Projection
    post_norm: Tensor
    gate_up: Projection
    down: Projection


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    embedding: Tensor  # [vocab, hidden]
    layers: Sequence[DecoderLayer]
    final_norm: Tensor
    head: Tensor  # [vocab, hidden]; the embedding itself when tied


class AdapterDeltas(Protocol):
    """Adds what this step's adapters contribute to a fused projection."""

    def add(self, layer: int, projection: str, states: Tensor, output: Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class DecoderInput:
    """One step's tokens, from any number of sequences."""

    token_ids: Tensor  # [num_tokens]
    positions: Tensor  # [num_tokens] position within its own sequence
    kv_slots: Tensor  # [num_tokens] where its key and value are stored
    groups: Sequence[AttentionGroup]
    adapters: AdapterDeltas | None  # None: the whole batch runs on the base model


class Decoder:
    """Weights and arithmetic; it keeps no state between calls except what it writes to the KV cache."""

    def __init__(
        self,
        architecture: Architecture,
        weights: DecoderWeights,
        max_context: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self._architecture = architecture
        self._weights = weights
        self._rotary = RotaryTable(architecture, max_context, dtype, device)

    @property
    def heads_per_kv(self) -> int:
        return self._architecture.num_heads // self._architecture.num_kv_heads

    def forward(self, batch: DecoderInput, cache: KVCache) -> Tensor:
        """Final hidden states after the last norm, [num_tokens, hidden]."""
        hidden = functional.embedding(batch.token_ids, self._weights.embedding)
        rotation = self._rotary.at(batch.positions)
        for index, layer in enumerate(self._weights.layers):
            hidden = hidden + self._attention(index, layer, hidden, batch, cache, rotation)
            hidden = hidden + self._mlp(index, layer, hidden, batch.adapters)
        return self._norm(hidden, self._weights.final_norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, vocab] in fp32."""
        return functional.linear(hidden, self._weights.head).float()

    def _attention(
        self,
        index: int,
        layer: DecoderLayer,
        hidden: Tensor,
        batch: DecoderInput,
        cache: KVCache,
        rotation: tuple[Tensor, Tensor],
    ) -> Tensor:
        shape = self._architecture
        states = self._norm(hidden, layer.input_norm)
        qkv = _project(layer.qkv, index, "qkv", states, batch.adapters)
        heads = qkv.view(len(qkv), -1, shape.head_dim)
        widths = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
        queries, keys, values = torch.split(heads, widths, dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = self._norm(queries, layer.query_norm), self._norm(keys, layer.key_norm)
        cache.write(index, batch.kv_slots, rotate(keys, *rotation), values)
        mixed = attend(rotate(queries, *rotation), index, batch.groups, cache)
        return _project(layer.o, index, "o", mixed, batch.adapters)

    def _mlp(self, index: int, layer: DecoderLayer, hidden: Tensor, adapters: AdapterDeltas | None) -> Tensor:
        states = self._norm(hidden, layer.post_norm)
        gate, up = _project(layer.gate_up, index, "gate_up", states, adapters).chunk(2, dim=-1)
        return _project(layer.down, index, "down", functional.silu(gate) * up, adapters)

    def _norm(self, states: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(states, weight.shape, weight, self._architecture.rms_norm_eps)


def _project(
    linear: Projection, layer: int, projection: str, states: Tensor, adapters: AdapterDeltas | None
) -> Tensor:
    output = linear(states)
    if adapters is not None:
        adapters.add(layer, projection, states, output)
    return output
