"""Every kind of adapter against transformers with PEFT, fp32: on each family, alone and all in one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.fixtures_engine import Oracle, make_model, read_tensors, rewrite_tensors, run_all
from tests.support.parity import KINDS, check_batch, make_kinds, prompts_of, request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama untied with biases": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen2 tied": {"tie_word_embeddings": True},
    "qwen3": {},
    "qwen3 untied with biases": {"tie_word_embeddings": False, "attention_bias": True},
}


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_alone_and_in_one_batch(
    name: str, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    model = make_model(tmp_path / "model", name.partition(" ")[0], **MODELS[name])
    kinds, oracle, engine = make_kinds(tmp_path, model), Oracle(model), make_engine(model)
    for adapter in kinds.values():
        check_batch(engine, oracle, prompts_of([9]), [adapter], max_tokens=4)
    prompts = prompts_of([5 + 3 * i for i in range(len(kinds) + 1)], seed=1)
    check_batch(engine, oracle, prompts, [None, *kinds.values()], max_tokens=8)


def test_every_kind_gives_a_different_answer(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """Else equality with the reference could come from an adapter too weak to tell."""
    kinds = make_kinds(tmp_path, tiny_llama)
    commands = [request(str(i), adapter) for i, adapter in enumerate([None, *kinds.values()])]
    answers = run_all(make_engine(), *commands)
    assert len({tuple(answer.token_ids) for answer in answers.values()}) == len(KINDS) + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_adapters_stored_in_any_precision(
    kind: str, dtype: torch.dtype, tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    ref = make_kinds(tmp_path, tiny_llama, [kind])[kind]
    stored = rewrite_tensors(ref, {name: tensor.to(dtype) for name, tensor in read_tensors(ref).items()})
    check_batch(make_engine(), Oracle(tiny_llama), prompts_of([7, 12]), [stored])


def test_gains_take_memory_only_while_an_adapter_has_some(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    kinds = make_kinds(tmp_path, tiny_llama, ["plain", "dora", "mlp"])
    engine = make_engine(num_adapter_slots=1)
    sizes = []
    for adapter in kinds.values():
        run_all(engine, request("r", adapter, max_tokens=2))
        sizes.append(engine._adapters.arena.dora.num_bytes)
    assert sizes[0] == sizes[2] == 0 < sizes[1]
