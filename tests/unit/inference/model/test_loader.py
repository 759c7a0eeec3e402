from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.errors import UnsupportedModelError
from inference.kernels.portable import PortableKernels
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights, load_decoder
from tests.fixtures_engine import ALL_LINEAR, make_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def open_weights(folder: Path, dtype: torch.dtype = torch.float32) -> BaseWeights:
    return BaseWeights.open(folder, read_architecture(folder), dtype)


def test_weights_that_do_not_fit_the_config_are_refused(edited: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModelError, match="gate_proj"):
        load_decoder(open_weights(edited(intermediate_size=100)), 16, "cpu", PortableKernels())


def test_single_weights_and_biases_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "qwen2")
    tensors, weights = load_file(folder / "model.safetensors"), open_weights(folder, torch.bfloat16)
    for layer in range(2):
        for linear in ALL_LINEAR:
            parent = "self_attn" if linear in {"q_proj", "k_proj", "v_proj", "o_proj"} else "mlp"
            name = f"model.layers.{layer}.{parent}.{linear}"
            assert torch.equal(weights.linear(layer, linear), tensors[f"{name}.weight"].bfloat16())
            bias = weights.linear_bias(layer, linear)
            assert (bias is not None) == (linear in {"q_proj", "k_proj", "v_proj"})
            assert bias is None or torch.equal(bias, tensors[f"{name}.bias"].bfloat16())


def test_a_head_in_addition_to_tied_embeddings_is_ignored(edited: Callable[..., Path]) -> None:
    folder = edited()
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    load_decoder(open_weights(folder), 16, "cpu", PortableKernels())


def test_a_model_with_parts_that_the_family_does_not_have_is_refused(edited: Callable[..., Path]) -> None:
    folder = edited()
    path = folder / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.self_attn.q_norm.weight": torch.ones(16)}, path)
    with pytest.raises(UnsupportedModelError, match=r"does not use: .*q_norm"):
        load_decoder(open_weights(folder), 16, "cpu", PortableKernels())


def test_half_a_fused_bias_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "qwen2")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.self_attn.k_proj.bias"]
    save_file(tensors, path)
    with pytest.raises(UnsupportedModelError, match="layer 1: only some linear layers of qkv"):
        load_decoder(open_weights(folder), 16, "cpu", PortableKernels())
