"""Prefix sharing: the same answers and probes, never across adapters or payers, never what overflowed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.errors import NumericalError
from inference.scheduling.prefix_cache import extend_names, root_name
from tests.fixtures_engine import Answer, greedy, make_adapter, read_tensors, rewrite_tensors, run_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine
    from inference.protocol import AdapterRef, ProbeStates
    from tests.fixtures_engine import Oracle

COMMON = "You are a poet who answers in verse. "
PROBE_TOLERANCE = 1e-4  # fp32, sums taken in another order


def names_of(root: bytes, tokens: list[int], block_size: int = 4) -> list[bytes]:
    names: list[bytes] = []
    extend_names(names, root, tokens, block_size)
    return names


TOKENS = st.lists(st.integers(0, 3), max_size=24)
ROOTS = st.builds(root_name, st.sampled_from([None, "a", "b"]), st.sampled_from(["", "p", "q"]))


@given(ROOTS, TOKENS, ROOTS, TOKENS)
def test_names_are_equal_just_where_prefixes_are(
    root: bytes, tokens: list[int], other_root: bytes, other_tokens: list[int]
) -> None:
    pairs = zip(names_of(root, tokens), names_of(other_root, other_tokens), strict=False)
    for number, (name, other) in enumerate(pairs, 1):
        is_same = root == other_root and tokens[: 4 * number] == other_tokens[: 4 * number]
        assert (name == other) == is_same


@given(TOKENS, st.integers(0, 24))
def test_names_do_not_depend_on_when_they_are_extended(tokens: list[int], place: int) -> None:
    root = root_name(None, "")
    names = names_of(root, tokens[:place])
    extend_names(names, root, tokens, 4)
    assert names == names_of(root, tokens)


def test_adapter_and_scope_cannot_be_mistaken_for_each_other() -> None:
    roots = {root_name("ab", "c"), root_name("a", "bc"), root_name(None, ""), root_name(None, "base")}
    assert len(roots) == 4


def close(one: ProbeStates, other: ProbeStates) -> bool:
    pairs = ((one.prompt, other.prompt), (one.answer, other.answer))
    counts = [(p.num_prompt_tokens, p.num_answer_tokens) for p in (one, other)]
    return counts[0] == counts[1] and all(
        torch.allclose(torch.tensor(a), torch.tensor(b), atol=PROBE_TOLERANCE, rtol=PROBE_TOLERANCE)
        for a, b in pairs
    )


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
def test_answers_and_probes_are_the_same_with_shared_prefixes(
    length: int, llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    """The question's end falls before, on and after a block's end; the first answer fills the cache."""
    prompt = COMMON[:32] + "?" * length
    for adapter in (None, llama_adapters[0]):
        commands = [greedy("r", prompt, adapter=adapter, probe=True, max_tokens=20)]
        expected = run_all(make_engine(prefix_sharing="off"), *commands)["r"]
        engine = make_engine(max_step_tokens=20)
        run_all(engine, greedy("first", prompt[:-1] + "!", adapter=adapter))
        for _ in range(2):
            answer = run_all(engine, *commands)["r"]
            assert answer.token_ids == expected.token_ids
            assert close(answer.last.probe, expected.last.probe)
        assert answer.last.cached_prompt_tokens == (31 + length) // 16 * 16
        assert expected.last.cached_prompt_tokens == 0


def test_an_answer_is_a_prefix_of_the_next_question(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    first = run_all(engine, greedy("1", COMMON, max_tokens=30))["1"]
    tokens = [*engine.tokenizer.encode_prompt((), COMMON), *first.token_ids]
    answer = run_all(engine, greedy("2", probe=True), prompts={"2": [*tokens, 9, 10, 11]})["2"]
    assert answer.last.cached_prompt_tokens == (len(tokens) - 1) // 16 * 16
    plain = run_all(
        make_engine(prefix_sharing="off"), greedy("2", probe=True), prompts={"2": [*tokens, 9, 10, 11]}
    )["2"]
    assert answer.token_ids == plain.token_ids
    assert close(answer.last.probe, plain.last.probe)


def test_an_embedding_begins_behind_a_shared_prefix(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine, plain = make_engine(), make_engine(prefix_sharing="off")
    prompt = engine.tokenizer.encode_prompt((), COMMON)
    states: list[ProbeStates] = []
    for each in (plain, engine, engine):
        each.embed("e", prompt, list(range(10, 50)), llama_adapters[0])
        (output,) = [output for output in each.run() if output.finish_reason]
        states.append(output.probe)
    assert output.cached_prompt_tokens == 32
    assert all(close(one, states[0]) for one in states)


def test_preempted_requests_come_back_behind_what_is_left_of_their_own(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    prompts = {str(i): COMMON + str(i) * (5 * i) for i in range(6)}
    commands = [
        greedy(key, text, adapter=llama_adapters[int(key) % 2], probe=True, max_tokens=24)
        for key, text in prompts.items()
    ]
    expected = run_all(make_engine(prefix_sharing="off"), *commands)
    engine = make_engine(kv_budget_bytes=40 * 2304, kv_block_size=4, max_step_tokens=30)
    for _ in range(2):
        answers = run_all(engine, *commands)
        for key, answer in answers.items():
            assert answer.token_ids == expected[key].token_ids
            assert close(answer.last.probe, expected[key].last.probe)
            assert answer.last.cached_prompt_tokens < answer.last.prompt_tokens
    assert engine.status().num_preemptions > 0


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_common=st.integers(0, 40),
    tails=st.lists(st.integers(1, 20), min_size=3, max_size=7),
    max_step_tokens=st.sampled_from([5, 64]),
    kv_block_size=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 1000),
)
def test_answers_behind_shared_prefixes_are_those_of_transformers(
    num_common: int,
    tails: list[int],
    max_step_tokens: int,
    kv_block_size: int,
    seed: int,
    llama_adapters: list[AdapterRef],
    llama_oracle: Oracle,
    make_engine: Callable[..., Engine],
) -> None:
    """Use a cache for two and a half sequences, so that blocks are evicted and requests preempted."""
    rng = random.Random(seed)
    common = [rng.randrange(5, 260) for _ in range(num_common)]
    prompts = {str(i): common + [rng.randrange(5, 260) for _ in range(n)] for i, n in enumerate(tails)}
    adapters = [None, llama_adapters[0]]
    commands = [greedy(key, adapter=adapters[int(key) % 2], max_tokens=12) for key in prompts]
    bytes_per_token = 512 + 256 // kv_block_size
    engine = make_engine(
        kv_budget_bytes=180 * bytes_per_token, kv_block_size=kv_block_size, max_step_tokens=max_step_tokens
    )
    for _ in range(2):
        for key, answer in run_all(engine, *commands, prompts=prompts).items():
            llama_oracle.check_greedy(prompts[key], answer.token_ids, adapters[int(key) % 2])


def test_neither_adapters_nor_payers_share(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    run_all(engine, greedy("r", COMMON, adapter=llama_adapters[0], payer="me"))

    def cached(adapter: AdapterRef | None, payer: str) -> int:
        answer = run_all(engine, greedy("r", COMMON, adapter=adapter, payer=payer))["r"]
        return answer.last.cached_prompt_tokens

    assert cached(llama_adapters[1], "me") == cached(None, "me") == cached(llama_adapters[0], "you") == 0
    assert cached(llama_adapters[0], "me") == 32


def test_payers_share_where_the_operator_says_so(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(prefix_sharing="all")
    run_all(engine, greedy("r", COMMON, payer="me"))
    assert run_all(engine, greedy("r", COMMON, payer="you"))["r"].last.cached_prompt_tokens == 32
    status = engine.status()
    assert (status.prefix_cache_queries, status.prefix_cache_hits) == (2 * len(COMMON), 32)
    assert status.kv_blocks_used == 0 < status.kv_blocks_named


def test_blocks_of_an_overflowing_adapter_are_never_shared(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    ref = make_adapter(tmp_path / "a", tiny_llama)
    huge = rewrite_tensors(ref, {name: torch.full_like(t, 1e18) for name, t in read_tensors(ref).items()})
    engine = make_engine()
    for _ in range(2):
        answer: Answer = run_all(engine, greedy("h", COMMON, adapter=huge))["h"]
        assert isinstance(answer.error, NumericalError)
        assert engine.status().kv_blocks_named == 0


def test_a_request_that_fails_late_takes_its_earlier_blocks_with_it(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model goes out of range in the answer, when the prompt's blocks have long been named."""
    engine = make_engine()
    forward = engine._runner.forward
    num_steps = 0

    def overflow_at_last(step: object) -> torch.Tensor:
        nonlocal num_steps
        num_steps += 1
        return forward(step) if num_steps < 5 else forward(step) * torch.inf

    monkeypatch.setattr(engine._runner, "forward", overflow_at_last)
    assert isinstance(run_all(engine, greedy("r", COMMON))["r"].error, NumericalError)
    assert engine.status().kv_blocks_named == 0
