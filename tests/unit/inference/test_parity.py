"""The engine's tokens against transformers with PEFT, fp32, greedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.protocol import EmbedItem
from tests.fixtures_engine import (
    FAMILIES,
    Oracle,
    drain,
    greedy,
    load_adapters,
    make_adapter,
    make_model,
    run_all,
)
from tests.support.parity import check_batch, prompts_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import AdapterRef


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_transformers_with_peft_in_a_mixed_batch(
    family: str, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    model = make_model(tmp_path / "model", family)
    adapters = [
        None,
        make_adapter(tmp_path / "a", model, rank=4, seed=1),
        make_adapter(tmp_path / "b", model, rank=7, targets=("q_proj", "up_proj"), seed=2),
    ]
    check_batch(make_engine(model), Oracle(model), prompts_of([1, 9, 30, 17, 4]), adapters)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10_000.0}

PARTIAL = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
        ("llama", {"head_dim": 24, "num_key_value_heads": 4, "rope_parameters": YARN}),
        ("mistral", {"head_dim": 32, "num_key_value_heads": 1, "tie_word_embeddings": True}),
        ("qwen2", {"num_attention_heads": 6, "hidden_size": 96, "rope_parameters": YARN}),
        ("smollm3", {"no_rope_layers": [0, 1], "rope_parameters": YARN}),
        ("smollm3", {"no_rope_layer_interval": 2}),
        ("qwen3", {"attention_bias": True, "tie_word_embeddings": False}),
        ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 2, "sliding_window": 50}),
        ("gemma3_text", {"rope_parameters": GEMMA_ROPES, "head_dim": 32, "query_pre_attn_scalar": 32}),
        ("phi3", {"rope_parameters": PARTIAL}),
        ("phi3", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("mixtral", {"num_experts_per_tok": 1, "head_dim": 32}),
        ("qwen3_moe", {"norm_topk_prob": True, "mlp_only_layers": [0]}),
        ("qwen3_moe", {"decoder_sparse_step": 2, "attention_bias": True}),
    ],
)
def test_every_shape_of_a_family_answers_as_transformers(
    family: str, shape: dict[str, Any], tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """Biases, free and tied heads, layers without positions, heads wider than their share or partly rotated,
    one KV head, stretched contexts, windows, experts in all layers or some, shards.
    """
    model = make_model(tmp_path / "model", family, max_shard_size="60KB", **shape)
    adapters = [None, make_adapter(tmp_path / "a", model)]
    check_batch(make_engine(model), Oracle(model), prompts_of([40, 90, 3]), adapters)


def test_each_adapter_alone(
    llama_adapters: list[AdapterRef], llama_oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    for adapter in llama_adapters:
        check_batch(engine, llama_oracle, prompts_of([11]), [adapter])


def test_adapters_change_the_answer(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    commands = [greedy(str(i), "same prompt", adapter=ref) for i, ref in enumerate([None, *llama_adapters])]
    answers = run_all(make_engine(), *commands)
    assert len({tuple(answer.token_ids) for answer in answers.values()}) == len(commands)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 70), min_size=2, max_size=9),
    max_step_tokens=st.sampled_from([3, 16, 64, 512]),
    kv_block_size=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 1000),
)
def test_mixed_batches_of_any_shape_and_chunk_size(
    lengths: list[int],
    max_step_tokens: int,
    kv_block_size: int,
    seed: int,
    llama_adapters: list[AdapterRef],
    llama_oracle: Oracle,
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(max_step_tokens=max_step_tokens, kv_block_size=kv_block_size)
    check_batch(engine, llama_oracle, prompts_of(lengths, seed), [None, *llama_adapters], max_tokens=6)


def test_preemption_changes_nothing(
    llama_adapters: list[AdapterRef], llama_oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(kv_budget_bytes=30 * 2048, kv_block_size=4)  # 116 tokens
    lengths = [20, 33, 8, 25, 40, 12, 30, 22, 9]
    load_adapters(engine, *llama_adapters)
    check_batch(engine, llama_oracle, prompts_of(lengths), [None, *llama_adapters], 24)
    assert engine.status().num_preemptions > 0


def test_slot_and_cache_eviction_change_nothing(
    llama_adapters: list[AdapterRef], llama_oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(num_adapter_slots=2, num_adapter_rows=10, max_rank=10, adapter_budget_bytes=66_400)
    for seed in range(2):
        prompts = prompts_of([20, 8, 25, 40, 12, 30, 22, 9], seed)
        check_batch(engine, llama_oracle, prompts, llama_adapters)
    status = engine.status()
    assert len(status.active_adapters) <= 2
    assert len(status.resident_adapters) < len(llama_adapters)


def test_requests_that_arrive_in_the_middle_join_the_batch(
    llama_adapters: list[AdapterRef], llama_oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    prompts = prompts_of([15, 28, 6])
    answers: dict[str, list[int]] = {key: [] for key in prompts}
    waiting = list(prompts)
    while waiting or not engine.is_idle:
        if waiting:
            key = waiting.pop(0)
            engine.add(greedy(key, adapter=llama_adapters[int(key)], max_tokens=10), prompts[key])
        for output in engine.step():
            answers[output.request_id] += output.token_ids
    for key, prompt in prompts.items():
        llama_oracle.check_greedy(prompt, answers[key], llama_adapters[int(key)])


@pytest.mark.parametrize("max_step_tokens", [5, 512])
def test_probe_equals_the_means_of_the_references_states(
    max_step_tokens: int,
    llama_adapters: list[AdapterRef],
    llama_oracle: Oracle,
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(max_step_tokens=max_step_tokens, kv_budget_bytes=20 * 2048, kv_block_size=4)
    prompts = prompts_of([21, 34, 13, 30])
    adapters = [None, *llama_adapters[:3]]
    load_adapters(engine, *llama_adapters[:3])
    commands = [
        greedy(k, adapter=adapters[int(k)], max_tokens=20, probe=True, probe_error=True) for k in prompts
    ]
    answers = run_all(engine, *commands, prompts=prompts)
    assert engine.status().num_preemptions > 0
    for key, prompt in prompts.items():
        tokens = [*prompt, *answers[key].token_ids]
        states = llama_oracle.hidden(tokens[:-1], adapters[int(key)])
        probe = answers[key].last.probe
        torch.testing.assert_close(
            torch.tensor(probe.prompt), states[: len(prompt)].mean(0), atol=1e-3, rtol=1e-3
        )
        torch.testing.assert_close(
            torch.tensor(probe.answer), states[len(prompt) - 1 :].mean(0), atol=1e-3, rtol=1e-3
        )
        assert (probe.num_prompt_tokens, probe.num_answer_tokens) == (len(prompt), 20)
        expected = llama_oracle.error(tokens, len(prompt), adapters[int(key)])
        torch.testing.assert_close(torch.tensor(probe.error), expected, atol=1e-2, rtol=1e-2)


def test_embedding_an_answer_equals_the_probe_of_generating_it(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine, adapter = make_engine(), llama_adapters[0]
    generated = run_all(engine, greedy("g", "Once upon", adapter=adapter, probe=True, probe_error=True))["g"]
    prompt, _ = engine.tokenizer.encode_item(EmbedItem(prompt="Once upon"))
    engine.embed("e", prompt, generated.token_ids, adapter)
    embedded = drain(engine)["e"]
    assert embedded.last.completion_tokens == 0
    torch.testing.assert_close(
        torch.tensor(embedded.last.probe.answer),
        torch.tensor(generated.last.probe.answer),
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(
        torch.tensor(embedded.last.probe.error),
        torch.tensor(generated.last.probe.error),
        atol=1e-3,
        rtol=1e-3,
    )
