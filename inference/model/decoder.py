"""Decoder of the Llama family for a flat batch of tokens, without padding or a batch dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch.nn import functional

from inference.kernels.interface import HeadNorms
from inference.model.rotary import RotaryTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from inference.kernels.interface import AttentionBatch, Kernels, Projection, Rotation
    from inference.model.architecture import Architecture
    from inference.model.collective import Collective
    from inference.model.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Weights of one layer."""

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
    """Weights of all layers, embeddings and head."""

    embedding: Tensor  # [vocab, hidden]
    layers: Sequence[DecoderLayer]
    final_norm: Tensor
    head: Projection
    output_embedding: Tensor  # [vocab, hidden], the weight of `head`; `embedding` itself if tied


class AdapterDeltas(Protocol):
    """Applies the adapters of a step to fused projections."""

    def project(self, layer: int, projection: str, linear: Projection, states: Tensor) -> Tensor:
        """The fused `linear` of `states` [num_tokens, in] with deltas, [num_tokens, out]."""


@dataclass(frozen=True, slots=True)
class DecoderInput:
    """The tokens of one step, of any number of sequences."""

    token_ids: Tensor  # [num_tokens]
    positions: Tensor  # [num_tokens] position within its own sequence
    kv_slots: Tensor  # [num_tokens] at which key and value are stored
    attention: AttentionBatch
    adapters: AdapterDeltas | None  # None: the whole batch runs on the base model


class Decoder:
    """Weights and arithmetic of the model. Its only state between calls is the KV cache."""

    def __init__(
        self,
        architecture: Architecture,
        weights: DecoderWeights,
        max_context: int,
        dtype: torch.dtype,
        device: str,
        kernels: Kernels,
        collective: Collective,
    ) -> None:
        """`architecture` and `weights` are one rank's share; `collective` sums over all ranks."""
        self._architecture = architecture
        self._weights = weights
        self._kernels = kernels
        self._sum = collective.all_reduce
        self._attention_scale = architecture.head_dim**-0.5
        self._rotary = RotaryTable(architecture, max_context, dtype, device)

    def forward(self, batch: DecoderInput, cache: KVCache) -> Tensor:
        """Final hidden states after the last norm, [num_tokens, hidden]."""
        layers = self._weights.layers
        norms = [*(layer.input_norm for layer in layers[1:]), self._weights.final_norm]
        hidden = functional.embedding(batch.token_ids, self._weights.embedding)
        rotation = self._rotary.rotation(batch.positions)
        identity = self._rotary.identity(batch.positions)
        states = self._add_norm(hidden, None, layers[0].input_norm)
        for index, (layer, next_norm) in enumerate(zip(layers, norms, strict=True)):
            layer_rotation = identity if index in self._architecture.unrotated_layers else rotation
            mixed = self._attention(index, layer, states, batch, cache, layer_rotation)
            states = self._add_norm(hidden, mixed, layer.post_norm)
            states = self._add_norm(hidden, self._mlp(index, layer, states, batch.adapters), next_norm)
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, vocab] in the model's dtype."""
        return self._weights.head(hidden)

    def output_rows(self, token_ids: Tensor) -> Tensor:
        """Output embeddings of `token_ids`, [len(token_ids), hidden]."""
        return functional.embedding(token_ids, self._weights.output_embedding)

    def _attention(
        self,
        index: int,
        layer: DecoderLayer,
        states: Tensor,
        batch: DecoderInput,
        cache: KVCache,
        rotation: Rotation,
    ) -> Tensor:
        pages, norms = cache.pages(index), None
        if layer.query_norm is not None and layer.key_norm is not None:
            norms = HeadNorms(layer.query_norm, layer.key_norm, self._architecture.rms_norm_eps)
        qkv = _project(layer.qkv, index, "qkv", states, batch.adapters)
        queries = self._kernels.rotate_and_store(qkv, norms, rotation, batch.kv_slots, pages)
        mixed = batch.attention.attend(queries, pages, self._attention_scale)
        return self._sum(_project(layer.o, index, "o", mixed, batch.adapters))

    def _mlp(self, index: int, layer: DecoderLayer, states: Tensor, adapters: AdapterDeltas | None) -> Tensor:
        gated = self._kernels.silu_gate(_project(layer.gate_up, index, "gate_up", states, adapters))
        return self._sum(_project(layer.down, index, "down", gated, adapters))

    def _add_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor) -> Tensor:
        return self._kernels.add_rms_norm(hidden, delta, weight, self._architecture.rms_norm_eps)


def _project(
    linear: Projection, layer: int, projection: str, states: Tensor, adapters: AdapterDeltas | None
) -> Tensor:
    if adapters is None:
        return linear(states)
    return adapters.project(layer, projection, linear, states)
