"""LoRA on embeddings and head against PEFT, fp32, with tied and separate heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from inference.errors import AdapterModulesToSaveError, AdapterUnsupportedError
from inference.protocol import EmbedItem
from tests.fixtures_engine import ALL_LINEAR, Oracle, drain, edit_adapter, make_adapter, make_model, run_all
from tests.support.parity import blend, check_batch, prompts_of, request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import AdapterRef

OUTER = ("embed_tokens", "lm_head")


def make_adapters(root: Path, model: Path) -> list[AdapterRef | None]:
    return [
        make_adapter(root / "embeddings", model, targets=OUTER[:1], seed=1),
        None,
        make_adapter(root / "head", model, rank=6, targets=OUTER[1:], seed=2, use_rslora=True),
        make_adapter(root / "all", model, rank=3, targets=(*ALL_LINEAR, *OUTER), seed=3),
        make_adapter(root / "linear layers", model, rank=5, seed=4),
        make_adapter(root / "activated", model, targets=("q_proj", "lm_head"), alora_invocation_tokens=[9]),
    ]


@pytest.mark.parametrize(
    ("family", "limits"),
    [
        ("llama", {"max_step_tokens": 7, "kv_block_size": 4}),  # with tied embeddings
        ("qwen2", {"kernels": "portable"}),
        ("gemma3_text", {"num_adapter_slots": 2, "num_adapter_rows": 12, "max_rank": 12}),
        ("mistral", {"kv_budget_bytes": 40 * 2048, "kv_block_size": 4}),
    ],
)
def test_embeddings_and_head_in_a_mixed_batch(
    family: str, limits: dict[str, Any], tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    model = make_model(tmp_path / "model", family)
    engine, oracle = make_engine(model, **limits), Oracle(model)
    prompts = prompts_of([20, 33, 8, 25, 40, 12, 30, 22, 9, 17, 5, 21])
    for prompt in prompts.values():
        prompt[len(prompt) // 2] = 9
    check_batch(engine, oracle, prompts, make_adapters(tmp_path, model), max_tokens=8)


def test_in_blends_and_probes(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    model = make_model(tmp_path / "model", "mistral")
    oracle, engine = Oracle(model), make_engine(model)
    embeddings, _, head, every, linear, _ = make_adapters(tmp_path, model)
    adapters = [blend((embeddings, 0.5), (head, 1.5)), blend((every, -0.5), (linear, 1.0)), None]
    check_batch(engine, oracle, prompts_of([11, 30, 4, 9]), adapters)
    prompt, _ = engine.tokenizer.encode_item(EmbedItem(prompt="Once upon"))
    answer = run_all(engine, request("g", every, probe=True, probe_error=True), prompts={"g": prompt})["g"]
    engine.embed("e", prompt, answer.token_ids, every)
    given = drain(engine)["e"].last.probe
    for one, other in ((given.answer, answer.last.probe.answer), (given.error, answer.last.probe.error)):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), atol=1e-3, rtol=1e-3)


def test_engines_without_such_adapters_reserve_no_rows_for_them(
    tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    model = make_model(tmp_path / "model", "mistral")
    engine = make_engine(model)
    *_, linear, _ = make_adapters(tmp_path, model)
    run_all(engine, request("r", linear, max_tokens=2))
    assert not set(engine._adapters.arena._shrink) & set(OUTER)


@pytest.mark.parametrize(
    ("options", "changes", "error", "named"),
    [
        ({"use_dora": True}, {}, AdapterUnsupportedError, "DoRA on embeddings or head"),
        ({}, {"ensure_weight_tying": True}, AdapterUnsupportedError, "ensure_weight_tying"),
        ({}, {"alora_invocation_tokens": [5]}, AdapterUnsupportedError, "aLoRA"),
        ({"save_embedding_layers": True}, {}, AdapterModulesToSaveError, "save_embedding_layers=False"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    options: dict[str, Any],
    changes: dict[str, Any],
    error: type[Exception],
    named: str,
    tmp_path: Path,
    make_engine: Callable[..., Engine],
) -> None:
    model = make_model(tmp_path / "model", "mistral")
    adapter = edit_adapter(make_adapter(tmp_path / "a", model, targets=OUTER[:1], **options), **changes)
    answer = run_all(make_engine(model), request("r", adapter), prompts={"r": [5, 6]})["r"]
    assert isinstance(answer.error, error)
    assert named in str(answer.error)
