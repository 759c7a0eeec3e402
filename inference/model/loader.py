"""Loads the decoder from a checkpoint, and reads single weights again for adapters."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.errors import UnsupportedModelError
from inference.model.architecture import PROJECTIONS, Architecture
from inference.model.checkpoint import Checkpoint
from inference.model.decoder import Decoder, DecoderLayer, DecoderWeights
from inference.model.linear import make_linear
from inference.model.quantized import served_weight

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from inference.config import Quantization
    from inference.kernels.interface import Kernels, Projection
    from inference.model.collective import Collective
    from inference.model.shards import Shard

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
        """Raises `ModelNotFoundError`; `UnsupportedModelError` if quantisation is not installed."""
        if quantization != "none" and importlib.util.find_spec("torchao") is None:
            raise UnsupportedModelError(
                f"{quantization} weights need torchao: `pip install 'loraledger[quantization]'`"
            )
        return cls(Checkpoint(folder), architecture, dtype, quantization)

    def linear(self, layer: int, name: str) -> Tensor:
        """Weight [out_features, in_features] of one linear layer, such as (3, "q_proj"), on the CPU. With
        quantisation, the dequantised weight. Read from the checkpoint at each call, so that no copy stays in
        memory next to the packed weights.
        """
        return served_weight(self.checkpoint_weight(layer, name), self.quantization)

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

    def tensor(self, name: str, *shape: int) -> Tensor:
        return self.checkpoint.tensor(name, shape, self.dtype)


def load_decoder(
    weights: BaseWeights,
    max_context: int,
    device: str,
    kernels: Kernels,
    collective: Collective,
    *,
    batch_invariant: bool = False,
) -> Decoder:
    """Load the decoder of one rank, with its share of the linear layers and all other weights.

    Raises `ModelNotFoundError`, `UnsupportedModelError`.
    """
    architecture = weights.architecture
    shape = (architecture.vocab_size, architecture.hidden_size)
    embedding = weights.tensor(_EMBEDDING, *shape).to(device)
    head = embedding if architecture.has_tied_head else weights.tensor(_HEAD, *shape).to(device)
    shard = collective.shard

    def layer(index: int) -> DecoderLayer:
        return _layer(weights, index, device, shard, kernels, batch_invariant=batch_invariant)

    decoder_weights = DecoderWeights(
        embedding=embedding,
        layers=[layer(index) for index in range(architecture.num_layers)],
        final_norm=weights.tensor("model.norm.weight", architecture.hidden_size).to(device),
        head=make_linear(head, None, kernels, batch_invariant=batch_invariant),
        output_embedding=head,
    )
    weights.checkpoint.check_all_used(ignored={_HEAD} if architecture.has_tied_head else ())
    sharded = collective.shard.architecture(architecture)
    return Decoder(sharded, decoder_weights, max_context, weights.dtype, device, kernels, collective)


def _layer(
    weights: BaseWeights, index: int, device: str, shard: Shard, kernels: Kernels, *, batch_invariant: bool
) -> DecoderLayer:
    architecture = weights.architecture

    def norm(name: str, width: int) -> Tensor:
        return weights.tensor(f"model.layers.{index}.{name}.weight", width).to(device)

    def head_norm(name: str) -> Tensor | None:
        return norm(f"self_attn.{name}", architecture.head_dim) if architecture.has_head_norms else None

    def fused(projection: str) -> Projection:
        weight, bias = _fuse(weights, index, projection, device, shard)
        return make_linear(weight, bias, kernels, weights.quantization, batch_invariant=batch_invariant)

    return DecoderLayer(
        input_norm=norm("input_layernorm", architecture.hidden_size),
        query_norm=head_norm("q_norm"),
        key_norm=head_norm("k_norm"),
        post_norm=norm("post_attention_layernorm", architecture.hidden_size),
        **{name: fused(name) for name in PROJECTIONS},
    )


def _fuse(
    weights: BaseWeights, index: int, projection: str, device: str, shard: Shard
) -> tuple[Tensor, Tensor | None]:
    linears = PROJECTIONS[projection]
    matrices = [shard.weight(linear, weights.checkpoint_weight(index, linear)) for linear in linears]
    found = [shard.bias(linear, weights.linear_bias(index, linear)) for linear in linears]
    biases = [bias for bias in found if bias is not None]
    if biases and len(biases) != len(matrices):
        raise UnsupportedModelError(f"layer {index}: only some linear layers of {projection} have a bias")
    bias = torch.cat(biases).to(device) if biases else None
    return torch.cat(matrices).to(device), bias
