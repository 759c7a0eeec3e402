"""Loads the decoder from a checkpoint, and reads single weights again for adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.errors import UnsupportedModelError
from inference.kernels.int8 import Int8Weight
from inference.model.checkpoint import Checkpoint
from inference.model.decoder import Decoder, DecoderLayer, DecoderWeights, DenseMlp, activation_gate
from inference.model.experts import Experts
from inference.model.linear import make_linear

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from inference.config import Quantization
    from inference.kernels.interface import Kernels, Projection
    from inference.model.architecture import Architecture

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """The weights of one base model in the engine's dtype. Any thread may read them."""

    checkpoint: Checkpoint
    architecture: Architecture
    dtype: torch.dtype
    quantization: Quantization = "none"

    @classmethod
    def open(
        cls,
        folder: Path,
        architecture: Architecture,
        dtype: torch.dtype,
        quantization: Quantization = "none",
    ) -> BaseWeights:
        """Raises `ModelNotFoundError`."""
        return cls(Checkpoint(folder), architecture, dtype, quantization)

    @property
    def adapter_dtype(self) -> torch.dtype:
        """Of the A and B of adapters: int8 where the weights are."""
        return self.dtype if self.quantization == "none" else torch.int8

    def linear(self, layer: int, name: str) -> Tensor:
        """Weight [out_features, in_features] of one linear layer, such as (3, "q_proj"), on the CPU. With
        quantisation, the dequantised weight. Read from the checkpoint at each call, so that no copy stays in
        memory next to the packed weights.
        """
        weight = self.checkpoint_weight(layer, name)
        return weight if self.quantization == "none" else Int8Weight.of(weight).dequantized.to(self.dtype)

    def checkpoint_weight(self, layer: int, name: str) -> Tensor:
        """The unquantised weight, [out_features, in_features]."""
        in_features, out_features = self.architecture.linear_shape(name)
        key = f"{self.architecture.linear_name(layer, name)}.weight"
        return self.checkpoint.tensor(key, (out_features, in_features), self.dtype)

    def linear_bias(self, layer: int, name: str) -> Tensor | None:
        """Bias [out_features] of one linear layer; None without one."""
        key = f"{self.architecture.linear_name(layer, name)}.bias"
        if key not in self.checkpoint:
            return None
        return self.checkpoint.tensor(key, (self.architecture.linear_shape(name)[1],), self.dtype)

    def norm(self, name: str, width: int) -> Tensor:
        """What a norm multiplies by, [width]. The sum with Gemma's offset is rounded once."""
        weight = self.checkpoint.tensor(f"{name}.weight", (width,), torch.float32)
        return (weight + self.architecture.norm_offset).to(self.dtype)

    def tensor(self, name: str, *shape: int) -> Tensor:
        return self.checkpoint.tensor(name, shape, self.dtype)


def load_decoder(
    weights: BaseWeights,
    max_context: int,
    device: str,
    kernels: Kernels,
    *,
    batch_invariant: bool = False,
) -> Decoder:
    """Raises `ModelNotFoundError`, `UnsupportedModelError`."""
    architecture = weights.architecture
    shape = (architecture.vocab_size, architecture.hidden_size)
    embedding = weights.tensor(_EMBEDDING, *shape).to(device)
    head = embedding if architecture.has_tied_head else weights.tensor(_HEAD, *shape).to(device)
    loader = _LayerLoader(weights, device, kernels, batch_invariant=batch_invariant)
    decoder_weights = DecoderWeights(
        embedding=embedding,
        layers=[loader.layer(index) for index in range(architecture.num_layers)],
        final_norm=weights.norm("model.norm", architecture.hidden_size).to(device),
        head=make_linear(head, None, kernels, weights.quantization, batch_invariant=batch_invariant),
        output_embedding=head,
    )
    weights.checkpoint.check_all_used(ignored={_HEAD} if architecture.has_tied_head else ())
    return Decoder(architecture, decoder_weights, max_context, weights.dtype, device, kernels)


class _LayerLoader:
    def __init__(self, weights: BaseWeights, device: str, kernels: Kernels, *, batch_invariant: bool) -> None:
        self._weights = weights
        self._architecture = weights.architecture
        self._device = device
        self._kernels = kernels
        self._batch_invariant = batch_invariant

    def layer(self, index: int) -> DecoderLayer:
        """Raises `UnsupportedModelError`."""
        names, width = self._architecture.norms, self._architecture.hidden_size
        has_experts = self._architecture.layers[index].has_experts
        return DecoderLayer(
            attention_norm=self._norm(index, names.attention, width),
            qkv=self._fused(index, "qkv"),
            query_norm=self._head_norm(index, "q_norm"),
            key_norm=self._head_norm(index, "k_norm"),
            o=self._fused(index, "o"),
            attention_output_norm=self._output_norm(index, names.attention_output),
            mlp_norm=self._norm(index, names.mlp, width),
            mlp=self._experts(index) if has_experts else self._dense(index),
            mlp_output_norm=self._output_norm(index, names.mlp_output),
        )

    def _norm(self, index: int, name: str, width: int) -> Tensor:
        return self._weights.norm(f"model.layers.{index}.{name}", width).to(self._device)

    def _output_norm(self, index: int, name: str | None) -> Tensor | None:
        return None if name is None else self._norm(index, name, self._architecture.hidden_size)

    def _head_norm(self, index: int, name: str) -> Tensor | None:
        if not self._architecture.has_head_norms:
            return None
        return self._norm(index, f"self_attn.{name}", self._architecture.head_dim)

    def _dense(self, index: int) -> DenseMlp:
        return DenseMlp(self._fused(index, "gate_up"), self._fused(index, "down"))

    def _experts(self, index: int) -> Experts:
        spec = self._architecture.experts
        if spec is None:
            raise UnsupportedModelError(f"layer {index} has experts that config.json does not describe")
        hidden, width = self._architecture.hidden_size, spec.intermediate_size
        block = f"model.layers.{index}.{spec.parent}"

        def matrix(expert: int, name: str, rows: int, columns: int) -> Tensor:
            return self._weights.tensor(f"{block}.experts.{expert}.{name}.weight", rows, columns)

        def gate_up(expert: int) -> Projection:
            names = (spec.gate, spec.up)
            return self._projection(torch.cat([matrix(expert, name, width, hidden) for name in names]), None)

        experts = range(spec.num_experts)
        return Experts(
            router=self._weights.tensor(f"{block}.gate.weight", spec.num_experts, hidden).to(self._device),
            gate_up=[gate_up(expert) for expert in experts],
            down=[self._projection(matrix(expert, spec.down, hidden, width), None) for expert in experts],
            num_used=spec.num_used,
            is_normalised=spec.is_normalised,
            gate=activation_gate(self._architecture, self._kernels),
        )

    def _fused(self, index: int, projection: str) -> Projection:
        weights = self._weights
        linears = self._architecture.projections[projection]
        matrices = [weights.checkpoint_weight(index, linear) for linear in linears]
        found = [weights.linear_bias(index, linear) for linear in linears]
        biases = [bias for bias in found if bias is not None]
        if biases and len(biases) != len(matrices):
            raise UnsupportedModelError(f"layer {index}: only some linear layers of {projection} have a bias")
        return self._projection(torch.cat(matrices), torch.cat(biases) if biases else None)

    def _projection(self, weight: Tensor, bias: Tensor | None) -> Projection:
        return make_linear(
            weight.to(self._device),
            None if bias is None else bias.to(self._device),
            self._kernels,
            self._weights.quantization,
            batch_invariant=self._batch_invariant,
        )
