"""From a checkpoint to decoder weights, and to single weights for whoever needs one again."""

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
    """The weights of one base model as an engine computes with them. Any thread may read."""

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
        """Raises `ModelNotFoundError`; `UnsupportedModelError` where quantisation is not installed."""
        if quantization != "none" and importlib.util.find_spec("torchao") is None:
            raise UnsupportedModelError(
                f"{quantization} weights need torchao: `pip install 'loraledger[quantization]'`"
            )
        return cls(Checkpoint(folder), architecture, dtype, quantization)

    def linear(self, layer: int, name: str) -> Tensor:
        """Weight [out_features, in_features] of one linear layer, such as (3, "q_proj"), without its
        bias, on the CPU; where the engine quantises, what the quantised weight stands for. Read from the
        checkpoint each time: none need be kept beside the packed ones.
        """
        return served_weight(self.original(layer, name), self.quantization)

    def original(self, layer: int, name: str) -> Tensor:
        """The weight as the checkpoint has it, [out_features, in_features]."""
        in_features, out_features = self.architecture.linear_shape(name)
        key = f"{self.architecture.linear_name(layer, name)}.weight"
        return self.checkpoint.tensor(key, (out_features, in_features), self.dtype)

    def linear_bias(self, layer: int, name: str) -> Tensor | None:
        """[out_features]"""
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
    """The decoder of one rank, which holds its share of the linear layers and all of the rest.

    Raises `ModelNotFoundError`, `UnsupportedModelError`.
    """
    architecture = weights.architecture
    shape = (architecture.vocab_size, architecture.hidden_size)
    embedding = weights.tensor(_EMBEDDING, *shape).to(device)
    head = embedding if architecture.has_tied_head else weights.tensor(_HEAD, *shape).to(device)
    shard = collective.shard

    def layer(index: int) -> DecoderLayer:
        return _layer(weights, index, device, shard, kernels, batch_invariant=batch_invariant)

    parts = DecoderWeights(
        embedding=embedding,
        layers=[layer(index) for index in range(architecture.num_layers)],
        final_norm=weights.tensor("model.norm.weight", architecture.hidden_size).to(device),
        head=make_linear(head, None, kernels, batch_invariant=batch_invariant),
        output_embedding=head,
    )
    weights.checkpoint.check_all_used(ignored={_HEAD} if architecture.has_tied_head else ())
    own = collective.shard.architecture(architecture)
    return Decoder(own, parts, max_context, weights.dtype, device, kernels, collective)


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
    matrices = [shard.weight(linear, weights.original(index, linear)) for linear in linears]
    own = [shard.bias(linear, weights.linear_bias(index, linear)) for linear in linears]
    biases = [bias for bias in own if bias is not None]
    if biases and len(biases) != len(matrices):
        raise UnsupportedModelError(f"layer {index}: only some parts of {projection} have a bias")
    bias = torch.cat(biases).to(device) if biases else None
    return torch.cat(matrices).to(device), bias
