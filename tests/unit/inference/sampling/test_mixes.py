"""Every option of sampling at once, in batches of any company."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine import Engine
from inference.protocol import Generate, JsonSchema, Options, Regex, Sampling
from tests.fixtures_engine import Answer, Oracle, run_all, tiny_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from inference.protocol import AdapterRef
    from inference.sampling.grammar import GrammarCompiler

CONSTRAINTS = (
    JsonSchema('{"type": "array", "items": {"type": ["integer", "string"], "maxLength": 9}, "minItems": 2}'),
    Regex("([a-z]{2} )*[0-9]{3,}"),
    Options(("yes", "no", "neither")),
)


def compatible(sampling: Sampling) -> Sampling:
    """A constraint says itself where an answer ends."""
    if sampling.constraint is None:
        return sampling
    return msgspec.structs.replace(sampling, min_tokens=0, ignore_eos=False)


SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(4, 24),
    min_tokens=st.integers(0, 4),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.5]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_k=st.sampled_from([0, 0, 5, 300]),
    min_p=st.sampled_from([0.0, 0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.8]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.6]),
    logit_bias=st.dictionaries(st.integers(0, 260), st.sampled_from([-100.0, 4.0]), max_size=2),
    seed=st.integers(0, 2**40),
    stop=st.sampled_from([(), (), ("a", "zz")]),
    ignore_eos=st.booleans(),
    logprobs=st.sampled_from([None, 0, 4]),
    constraint=st.sampled_from([None, None, None, *CONSTRAINTS]),
).map(compatible)


@pytest.fixture(scope="session")
def grammars(tiny_llama: Path) -> Iterator[GrammarCompiler]:
    """One for all examples: compiling would take longer than answering."""
    engine = Engine(tiny_config(tiny_llama))
    yield engine.grammars
    engine.close()


def logprobs(answer: Answer) -> list[tuple[int, float]]:
    return [(each.chosen.token_id, round(each.chosen.logprob, 3)) for each in answer.logprobs]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samplings=st.lists(SAMPLINGS, min_size=2, max_size=7),
    watched=st.integers(0, 1),
    max_step_tokens=st.sampled_from([5, 512]),
)
def test_a_seed_gives_the_same_answer_in_any_company(
    samplings: list[Sampling],
    watched: int,
    max_step_tokens: int,
    llama_adapters: list[AdapterRef],
    make_engine: Callable[..., Engine],
    grammars: GrammarCompiler,
) -> None:
    """With prompts in chunks and preemptions: the crowd has room for 76 tokens."""
    adapters = [None, *llama_adapters]
    commands = [
        Generate(str(i), prompt="seeded" * (i + 1), sampling=each, adapter=adapters[i % 5])
        for i, each in enumerate(samplings)
    ]
    engine = make_engine(kv_budget_bytes=20 * 2048, kv_block_size=4, max_step_tokens=max_step_tokens)
    undisturbed = make_engine()
    engine.grammars = undisturbed.grammars = grammars
    crowded = run_all(engine, *commands)[str(watched)]
    alone = run_all(undisturbed, commands[watched])[str(watched)]
    assert crowded.token_ids == alone.token_ids
    assert crowded.text == alone.text
    assert logprobs(crowded) == logprobs(alone)


def test_logprobs_equal_the_references_and_cover_every_token(
    llama_oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    sampling = Sampling(max_tokens=12, seed=5, temperature=2.0, logprobs=20, repetition_penalty=1.5)
    answer = run_all(engine, Generate("r", prompt="abc", sampling=sampling))["r"]
    prompt = engine.tokenizer.encode_prompt((), "abc")
    logits = llama_oracle.logits([*prompt, *answer.token_ids], None)[len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits, dim=-1)
    assert [each.chosen.token_id for each in answer.logprobs] == answer.token_ids
    for row, each in zip(expected, answer.logprobs, strict=True):
        for item in (each.chosen, *each.top):
            torch.testing.assert_close(item.logprob, float(row[item.token_id]), atol=1e-3, rtol=0)
            assert item.token.decode(errors="replace") == engine.tokenizer.decode([item.token_id]) or (
                item.token_id < 5  # decoding leaves special tokens out
            )
        assert [item.logprob for item in each.top] == sorted((i.logprob for i in each.top), reverse=True)


def test_no_answer_ends_before_its_least_number_of_tokens(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    (end,) = engine.tokenizer.eos_token_ids
    sampling = Sampling(max_tokens=9, min_tokens=5, temperature=0.0, logit_bias={end: 100.0})
    answer = run_all(engine, Generate("r", prompt="abc", sampling=sampling))["r"]
    assert (answer.last.finish_reason, len(answer.token_ids), answer.token_ids[-1]) == ("stop", 6, end)
