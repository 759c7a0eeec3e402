"""Runs a decoder as its `Architecture` describes it, with one kernel call per operation.

This defines what a decoder computes: a compiled step, which runs all layers in one call, returns the same
bits.

A batch is flat: the tokens of any number of sequences, without padding or a batch dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from inference.kernels.interface import HeadNorms, StepLayer, StepModel
from inference.model.experts import Experts
from inference.model.rotary import RotaryTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from inference.kernels.interface import (
        AttentionBatch,
        CompiledStep,
        Kernels,
        Pages,
        Projection,
        Rotation,
        StepDeltas,
    )
    from inference.model.architecture import Architecture, LayerSpec
    from inference.model.kv_cache import KVCache

MAX_LOGIT_ROWS = 64
"""Rows of logits that the engine computes at a time: each is as wide as the vocabulary, and they are in no
other budget. More rows would make the product little faster."""


@dataclass(frozen=True, slots=True)
class DenseMlp:
    """Weights of a gated MLP."""

    gate_up: Projection
    down: Projection


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Weights of one layer. The norms of outputs apply before the residual sum."""

    attention_norm: Tensor
    qkv: Projection
    query_norm: Tensor | None
    key_norm: Tensor | None
    o: Projection
    attention_output_norm: Tensor | None
    mlp_norm: Tensor
    mlp: DenseMlp | Experts
    mlp_output_norm: Tensor | None


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

    @property
    def deltas(self) -> StepDeltas | None:
        """What a compiled step adds to the projections; None if an adapter does more."""

    def project(self, layer: int, projection: str, linear: Projection, states: Tensor) -> Tensor:
        """The fused `linear` of `states` [num_tokens, in] with deltas, [num_tokens, out]."""

    def add_embeddings(self, token_ids: Tensor, embeddings: Tensor) -> None:
        """Add the deltas of `token_ids` [num_tokens] to their `embeddings` [num_tokens, hidden], in place."""

    def head(self, linear: Projection, states: Tensor) -> Tensor:
        """The head `linear` of `states` [num_rows, hidden] with deltas, [num_rows, vocab]."""


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
    ) -> None:
        self._architecture = architecture
        self._weights = weights
        self._kernels = kernels
        self._gate = activation_gate(architecture, kernels)
        self._compiled: CompiledStep | None = None
        self._rotary = [
            RotaryTable(rope, architecture.rotary_dim, max_context, dtype, device)
            for rope in architecture.ropes
        ]
        # Rounded to the model's dtype, as in training.
        self._embedding_scale = torch.tensor(architecture.embedding_scale, dtype=dtype).item()

    def compile(self, cache: KVCache) -> bool:
        """Let steps on `cache`, the only one from now on, run as one call of the kernels. False where these
        do not support the decoder.
        """
        if not self._architecture.special_features:
            self._compiled = self._kernels.compile_step(self._step_model(cache))
        return self._compiled is not None

    def forward(self, batch: DecoderInput, cache: KVCache) -> Tensor:
        """Final hidden states after the last norm, [num_tokens, hidden]."""
        hidden = self._embed(batch)
        deltas = None if batch.adapters is None else batch.adapters.deltas
        if self._compiled is not None and (batch.adapters is None or deltas is not None):
            return self._compiled.run(hidden, batch.positions, batch.kv_slots, batch.attention, deltas)
        layers = self._weights.layers
        next_norms = [*(layer.attention_norm for layer in layers[1:]), self._weights.final_norm]
        rotations = {index: table.rotation(batch.positions) for index, table in enumerate(self._rotary)}
        identity = self._rotary[0].identity(batch.positions)
        states = self._add_norm(hidden, None, layers[0].attention_norm)
        for index, (layer, next_norm) in enumerate(zip(layers, next_norms, strict=True)):
            rope = self._architecture.layers[index].rope
            rotation = identity if rope is None else rotations[rope]
            mixed = self._attention(index, layer, states, batch, cache, rotation)
            states = self._add_norm(hidden, self._norm(mixed, layer.attention_output_norm), layer.mlp_norm)
            mixed = self._mlp(index, layer.mlp, states, batch.adapters)
            states = self._add_norm(hidden, self._norm(mixed, layer.mlp_output_norm), next_norm)
        return states

    def logits(self, hidden: Tensor, adapters: AdapterDeltas | None) -> Tensor:
        """[num_rows, vocab] in the model's dtype. `adapters`: those of the rows that change the head."""
        return self._weights.head(hidden) if adapters is None else adapters.head(self._weights.head, hidden)

    def sum_outputs(self, weights: Tensor, token_ids: Tensor) -> Tensor:
        """See `inference.probe.OutputHead`."""
        return self._kernels.sum_rows(weights, token_ids, self._weights.output_embedding)

    def _embed(self, batch: DecoderInput) -> Tensor:
        hidden = functional.embedding(batch.token_ids, self._weights.embedding)
        if batch.adapters is not None:
            batch.adapters.add_embeddings(batch.token_ids, hidden)
        return hidden if self._embedding_scale == 1.0 else hidden.mul_(self._embedding_scale)

    def _attention(
        self,
        index: int,
        layer: DecoderLayer,
        states: Tensor,
        batch: DecoderInput,
        cache: KVCache,
        rotation: Rotation,
    ) -> Tensor:
        pages = cache.pages(index)
        qkv = _project(layer.qkv, index, "qkv", states, batch.adapters)
        queries = self._kernels.rotate_and_store(
            qkv, self._head_norms(layer), rotation, batch.kv_slots, pages
        )
        scale, window = self._architecture.attention_scale, self._architecture.layers[index].window
        mixed = batch.attention.attend(queries, pages, scale, window)
        return _project(layer.o, index, "o", mixed, batch.adapters)

    def _mlp(
        self, index: int, mlp: DenseMlp | Experts, states: Tensor, adapters: AdapterDeltas | None
    ) -> Tensor:
        if isinstance(mlp, Experts):
            return mlp(states)
        gate_up = _project(mlp.gate_up, index, "gate_up", states, adapters)
        return _project(mlp.down, index, "down", self._gate(gate_up), adapters)

    def _step_model(self, cache: KVCache) -> StepModel:
        weights, architecture = self._weights, self._architecture
        layers = [
            self._step_layer(layer, spec, layer.mlp, cache.pages(index))
            for index, (layer, spec) in enumerate(zip(weights.layers, architecture.layers, strict=True))
            if isinstance(layer.mlp, DenseMlp)
        ]
        epsilon, scale = architecture.rms_norm_eps, architecture.attention_scale
        return StepModel(layers, weights.final_norm, epsilon, scale)

    def _step_layer(self, layer: DecoderLayer, spec: LayerSpec, mlp: DenseMlp, pages: Pages) -> StepLayer:
        table = self._rotary[spec.rope or 0]
        return StepLayer(
            attention_norm=layer.attention_norm,
            qkv=layer.qkv,
            head_norms=self._head_norms(layer),
            rotation=table.unrotated if spec.rope is None else table.rotated,
            is_rotated=spec.rope is not None,
            pages=pages,
            window=spec.window,
            o=layer.o,
            mlp_norm=layer.mlp_norm,
            gate_up=mlp.gate_up,
            down=mlp.down,
        )

    def _head_norms(self, layer: DecoderLayer) -> HeadNorms | None:
        if layer.query_norm is None or layer.key_norm is None:
            return None
        return HeadNorms(layer.query_norm, layer.key_norm, self._architecture.rms_norm_eps)

    def _norm(self, states: Tensor, weight: Tensor | None) -> Tensor:
        return states if weight is None else self._add_norm(states, None, weight)

    def _add_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor) -> Tensor:
        return self._kernels.add_rms_norm(hidden, delta, weight, self._architecture.rms_norm_eps)


def activation_gate(architecture: Architecture, kernels: Kernels) -> Callable[[Tensor], Tensor]:
    """activation(gate) * up, [num_tokens, width], from [num_tokens, 2 * width]: gate, then up."""
    return {"silu": kernels.silu_gate, "gelu_tanh": kernels.gelu_gate}[architecture.activation]


def _project(
    linear: Projection, layer: int, projection: str, states: Tensor, adapters: AdapterDeltas | None
) -> Tensor:
    if adapters is None:
        return linear(states)
    return adapters.project(layer, projection, linear, states)
