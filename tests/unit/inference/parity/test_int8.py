"""Engines with int8 weights against transformers with PEFT on linear layers of the same definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from msgspec.structs import replace

from inference.config import EngineConfig
from inference.kernels.cpu import has_int8_products, this_cpu
from inference.kernels.int8 import Int8Linear, Int8Weight, quantize_rows
from inference.protocol import AdapterBlend, BlendPart
from tests.fixtures_engine import Oracle, greedy, make_adapter, make_model, run_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import Generate
    from tests.fixtures_engine import AnyAdapter


class _Int8Layer(torch.nn.Linear):
    """A linear layer whose `weight` is what the quantised one stands for, plus the deltas of a blend."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.product = Int8Linear(Int8Weight.of(layer.weight.data), layer.bias)
        self.weight.data, self.bias = self.product.weight.dequantized, layer.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        product = self.product(states.flatten(0, -2)).view(*states.shape[:-1], -1)
        return product + states @ (self.weight - self.product.weight.dequantized).T


class _Int8Oracle(Oracle):
    def base(self) -> Any:
        model = super().base()
        for name, layer in [*model.named_modules()]:
            if isinstance(layer, torch.nn.Linear):
                model.set_submodule(name, _Int8Layer(layer))
        return model

    def _load(self, adapter: AnyAdapter) -> Any:
        """Adapters too: A by its rows, B by its columns, which the engine quantises after scaling."""
        model = super()._load(adapter)
        sides = [(name, each) for name, each in model.named_parameters() if ".lora_" in name]
        for name, each in sides:
            if ".lora_A." in name or ".lora_embedding_A." in name:
                each.data = _dequantized(each.data)
            elif ".lora_B." in name or ".lora_embedding_B." in name:
                each.data = _dequantized(each.data.T).T.contiguous()
        return model


def _dequantized(rows: torch.Tensor) -> torch.Tensor:
    values, scales = quantize_rows(rows)
    return values * scales.unsqueeze(1)


def test_an_engine_gives_the_tokens_of_the_definition(
    tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """In fp32, with adapters in int8, of which DoRA also measures the served weights."""
    model = make_model(tmp_path / "model", "qwen2")
    plain, wide = make_adapter(tmp_path / "a", model), make_adapter(tmp_path / "b", model, rank=9, seed=2)
    adapters: list[AnyAdapter] = [
        None,
        plain,
        wide,
        make_adapter(tmp_path / "c", model, use_dora=True, seed=3),
        make_adapter(tmp_path / "d", model, targets=("embed_tokens", "lm_head", "up_proj"), seed=4),
        AdapterBlend((BlendPart(plain, 0.7), BlendPart(wide, -1.5))),
    ]
    oracle, engine = _Int8Oracle(model), make_engine(model, quantization="int8")
    prompts = {str(i): list(range(30, 30 + n)) for i, n in enumerate((1, 40, 7, 12, 75, 9))}
    answers = run_all(engine, *(greedy(key, adapter=adapters[int(key)]) for key in prompts), prompts=prompts)
    for key, prompt in prompts.items():
        oracle.check_greedy(prompt, answers[key].token_ids, adapters[int(key)])


@pytest.mark.skipif(not has_int8_products(this_cpu()), reason="neither AVX2 nor AVX-512 with VNNI")
def test_a_compiled_step_in_bf16_has_the_bits_of_plain_products(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an adapter in the batch, plain torch and the kernels round the same products alike."""
    adapter = make_adapter(tmp_path / "a", tiny_llama)
    prompts = {str(i): list(range(30, 30 + n)) for i, n in enumerate((1, 40, 7))}
    options = {"dtype": "bfloat16", "quantization": "int8", "kernels": "native"}
    answers = []
    for is_compiled in (True, False):
        if not is_compiled:
            monkeypatch.setattr("inference.model.decoder.Decoder.compile", lambda *_: False)
        for used in (None, adapter):
            engine = make_engine(**options)
            commands = (_with_logprobs(greedy(key, adapter=used)) for key in prompts)
            found = run_all(engine, *commands, prompts=prompts)
            answers.append({key: (each.token_ids, each.logprobs) for key, each in found.items()})
    assert answers[:2] == answers[2:]


def _with_logprobs(command: Generate) -> Generate:
    return replace(command, sampling=replace(command.sampling, logprobs=3))


def test_the_digest_is_that_of_the_source(make_engine: Callable[..., Engine]) -> None:
    """Adapters that were trained on the base model are accepted."""
    assert make_engine(quantization="int8").base_model_digest == make_engine().base_model_digest


def test_other_devices_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8 weights are served on CPUs, not on cuda"):
        EngineConfig(tmp_path, quantization="int8", device="cuda")
