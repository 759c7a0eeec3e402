"""Quantised engines against plain products with what their weights stand for."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from inference.errors import UnsupportedModelError
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights
from inference.model.quantized import Int4Linear, Int8Linear, served_weight
from tests.fixtures_engine import ALL_LINEAR, Oracle, greedy, make_adapter, make_model, run_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine

KINDS = pytest.mark.parametrize("quantization", ["int8", "int4"])


@pytest.fixture(scope="module", autouse=True)
def torchao() -> None:
    """Its import complains about kernels for GPUs that are not here."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torchao.prototype.quantization.int4")


@pytest.mark.parametrize("linear", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("num_tokens", [1, 4, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_equal_those_with_the_weight_that_is_stood_for(
    linear: type[Int8Linear | Int4Linear], num_tokens: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    weight, bias, states = torch.randn(48, 96), torch.randn(48), torch.randn(num_tokens, 96)
    quantized = linear.of(weight.to(dtype), bias.to(dtype))
    states = states.to(dtype)
    expected = functional.linear(states.float(), quantized.weight.float(), bias)
    tolerance = 1e-4 if dtype == torch.float32 else 0.25 if dtype == torch.bfloat16 else 0.03
    torch.testing.assert_close(quantized(states).float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("quantization", "steps"), [("int8", 127), ("int4", 7.5)])
def test_a_weight_moves_by_half_a_step_at_most(quantization: str, steps: float) -> None:
    """A step: the largest weight of the row (8 bits) or half the group's range (4 bits) over `steps`."""
    torch.manual_seed(0)
    weight = torch.randn(20, 64)
    groups = weight.view(20, -1, 64 if quantization == "int8" else 32)
    step = (
        groups.abs().amax(-1) if quantization == "int8" else (groups.amax(-1) - groups.amin(-1)) / 2
    ) / steps
    error = (served_weight(weight, quantization) - weight).abs().view(groups.shape).amax(-1)
    assert (error <= step / 2 * 1.02).all()


@KINDS
def test_a_quantised_engine_equals_one_on_the_weights_that_are_stood_for(
    quantization: str, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """The oracle is transformers with PEFT: adapters on top are as exact as on any base."""
    model = make_model(tmp_path / "model", "qwen2")
    adapters = [
        None,
        make_adapter(tmp_path / "a", model),
        make_adapter(tmp_path / "b", model, rank=9, seed=2),
        make_adapter(tmp_path / "c", model, use_dora=True, seed=3),
    ]
    oracle = Oracle(dequantised(model, tmp_path / "served", quantization))
    engine = make_engine(model, quantization=quantization)
    prompts = {str(i): list(range(30, 30 + n)) for i, n in enumerate((1, 40, 7, 12))}
    answers = run_all(engine, *(greedy(key, adapter=adapters[int(key)]) for key in prompts), prompts=prompts)
    for key, prompt in prompts.items():
        oracle.check_greedy(prompt, answers[key].token_ids, adapters[int(key)])


def dequantised(model: Path, folder: Path, quantization: str) -> Path:
    """A copy of the checkpoint with the linear layers' weights as a quantised engine computes with them."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    architecture = read_architecture(model)
    weights = BaseWeights.open(model, architecture, torch.float32, quantization)
    for layer in range(architecture.num_layers):
        for linear in ALL_LINEAR:
            tensors[f"{architecture.linear_name(layer, linear)}.weight"] = weights.linear(layer, linear)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@KINDS
def test_the_digest_is_that_of_the_source(
    quantization: str, tiny_llama: Path, make_engine: Callable[..., Engine]
) -> None:
    plain, quantized = make_engine(), make_engine(quantization=quantization)
    assert quantized.base_model_digest == plain.base_model_digest


def test_shapes_that_four_bits_cannot_hold_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"columns in multiples of 32, not \[16, 40\]"):
        Int4Linear.of(torch.zeros(16, 40), None)
    with pytest.raises(UnsupportedModelError, match=r"rows in multiples of 16"):
        Int4Linear.of(torch.zeros(17, 32), None)
    assert served_weight(torch.ones(17, 32), "int4").shape == (17, 32)


def test_without_torchao_the_error_says_how_to_get_it(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    with pytest.raises(UnsupportedModelError, match=r"loraledger\[quantization\]"):
        BaseWeights.open(tiny_llama, read_architecture(tiny_llama), torch.float32, "int8")
