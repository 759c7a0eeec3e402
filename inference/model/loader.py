"""Checkpoints from disk into decoder weights; Hugging Face folders with safetensors only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from inference.errors import ModelNotFoundError, UnsupportedModelError
from inference.model.architecture import PROJECTIONS, Architecture, read_architecture
from inference.model.base_model import base_model_digest, prepare_base_model
from inference.model.decoder import Decoder, DecoderLayer, DecoderWeights, Linear

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["base_model_digest", "load_decoder", "prepare_base_model", "read_architecture"]


def load_decoder(
    folder: Path, architecture: Architecture, max_context: int, dtype: torch.dtype, device: str
) -> Decoder:
    """Read all weights of `folder` as `dtype`. Raises `ModelNotFoundError`, `UnsupportedModelError`."""
    tensors = _read_tensors(folder, dtype, device)
    weights = _assemble(architecture, tensors)
    return Decoder(architecture, weights, max_context, dtype, device)


def _read_tensors(folder: Path, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt", device=device) as file:
                for name in file.keys():  # noqa: SIM118  # the handle is not iterable itself
                    tensors[name] = file.get_tensor(name).to(dtype)
        except (OSError, SafetensorError) as error:
            raise ModelNotFoundError(f"cannot read {path}: {error}") from error
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        raise ModelNotFoundError(f"{folder} holds no model.safetensors; other weight formats are not read")
    names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    if any("/" in name or name.startswith(".") for name in names):
        raise ModelNotFoundError(f"{index} points outside its folder")
    return [folder / name for name in names]


def _assemble(architecture: Architecture, tensors: Mapping[str, Tensor]) -> DecoderWeights:
    embedding = _tensor(
        tensors, "model.embed_tokens.weight", (architecture.vocab_size, architecture.hidden_size)
    )
    head = embedding
    if not architecture.has_tied_head:
        head = _tensor(tensors, "lm_head.weight", tuple(embedding.shape))
    return DecoderWeights(
        embedding=embedding,
        layers=[_layer(architecture, tensors, index) for index in range(architecture.num_layers)],
        final_norm=_tensor(tensors, "model.norm.weight", (architecture.hidden_size,)),
        head=head,
    )


def _layer(architecture: Architecture, tensors: Mapping[str, Tensor], index: int) -> DecoderLayer:
    prefix, hidden = f"model.layers.{index}", (architecture.hidden_size,)
    fused = {name: _fuse(architecture, tensors, index, name) for name in PROJECTIONS}
    return DecoderLayer(
        input_norm=_tensor(tensors, f"{prefix}.input_layernorm.weight", hidden),
        query_norm=tensors.get(f"{prefix}.self_attn.q_norm.weight"),
        key_norm=tensors.get(f"{prefix}.self_attn.k_norm.weight"),
        post_norm=_tensor(tensors, f"{prefix}.post_attention_layernorm.weight", hidden),
        **fused,
    )


def _fuse(architecture: Architecture, tensors: Mapping[str, Tensor], index: int, projection: str) -> Linear:
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for linear in PROJECTIONS[projection]:
        name = architecture.linear_name(index, linear)
        in_features, out_features = architecture.linear_shape(linear)
        weights.append(_tensor(tensors, f"{name}.weight", (out_features, in_features)))
        if f"{name}.bias" in tensors:
            biases.append(_tensor(tensors, f"{name}.bias", (out_features,)))
    if biases and len(biases) != len(weights):
        raise UnsupportedModelError(f"layer {index}: only some parts of {projection} have a bias")
    return Linear(torch.cat(weights), torch.cat(biases) if biases else None)


def _tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise UnsupportedModelError(f"the checkpoint has no tensor {name}")
    if tuple(tensor.shape) != shape:
        raise UnsupportedModelError(f"{name} has shape {list(tensor.shape)}, config.json says {list(shape)}")
    return tensor
