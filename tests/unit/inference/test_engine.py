"""Guarantees of the engine other than correct tokens."""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import pytest

from inference.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    NumericalError,
)
from inference.outputs import Failure
from inference.protocol import AdapterRef, Generate, Message, Sampling
from tests.fixtures_engine import (
    drain,
    greedy,
    run_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from inference.engine import Engine
    from inference.scheduling.step import Step


def test_an_answer_ends_at_eos_with_reason_stop(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    sampling = Sampling(max_tokens=400, temperature=3.0, seed=1)
    answer = run_all(engine, Generate("r", prompt="hello", sampling=sampling))["r"]
    assert answer.last.finish_reason == "stop"
    assert answer.token_ids[-1] in engine.tokenizer.eos_token_ids
    assert answer.last.completion_tokens == len(answer.token_ids)


def test_an_answer_ends_at_max_tokens_with_reason_length(make_engine: Callable[..., Engine]) -> None:
    answer = run_all(make_engine(), greedy("r", "abc", max_tokens=5))["r"]
    assert (answer.last.finish_reason, answer.last.prompt_tokens, answer.last.completion_tokens) == (
        "length",
        3,
        5,
    )


def test_an_answer_ends_where_the_context_does(make_engine: Callable[..., Engine]) -> None:
    answer = run_all(make_engine(max_context=20), greedy("r", "x" * 12, max_tokens=100))["r"]
    assert answer.last.completion_tokens == 8


def test_the_whole_kv_cache_can_hold_one_sequence(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(kv_budget_bytes=9 * 2304, kv_block_size=4)
    assert engine.max_context == 32
    answer = run_all(engine, greedy("r", "x" * 31, max_tokens=100))["r"]
    assert answer.last.completion_tokens == 1


def test_token_ids_beyond_the_vocabulary_are_refused(make_engine: Callable[..., Engine]) -> None:
    """A tokenizer may know more tokens than the model; the last of an answer is looked up by a kernel."""
    engine = make_engine()
    size = engine.vocabulary.size
    with pytest.raises(InvalidRequestError, match=f"token {size}.*{size - 1}"):
        engine.add(greedy("r", "x"), [1, size, 2])
    with pytest.raises(InvalidRequestError, match=f"token {size}"):
        engine.embed("e", [1], [2, size], None)
    engine.embed("e", [1], [2, size - 1], None)
    drain(engine)
    assert engine.is_idle


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(max_context=20)
    with pytest.raises(ContextLengthExceededError, match=r"25 tokens.* 20") as refusal:
        engine.add(greedy("r", "x" * 25))
    assert (refusal.value.num_prompt_tokens, refusal.value.max_context) == (25, 20)
    assert engine.is_idle


def test_stop_strings_end_the_answer_and_are_not_shown(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    full = run_all(engine, greedy("r", "abc", max_tokens=30))["r"].text
    stop = full[10:13]
    sampling = Sampling(max_tokens=30, temperature=0.0, stop=(stop,), ignore_eos=True)
    answer = run_all(engine, Generate("r", prompt="abc", sampling=sampling))["r"]
    assert answer.text == full[: full.index(stop)]
    assert answer.last.finish_reason == "stop"


def test_without_a_seed_answers_differ(make_engine: Callable[..., Engine]) -> None:
    commands = [Generate(str(i), prompt="dice", sampling=Sampling(max_tokens=20)) for i in range(2)]
    answers = run_all(make_engine(), *commands)
    assert answers["0"].token_ids != answers["1"].token_ids


def test_streamed_text_equals_the_decoded_tokens(make_engine: Callable[..., Engine]) -> None:
    """Random tokens of a byte-level vocabulary: mostly broken UTF-8, neither lost nor doubled."""
    engine = make_engine()
    answer = run_all(engine, Generate("r", prompt="é", sampling=Sampling(max_tokens=60, ignore_eos=True)))[
        "r"
    ]
    assert answer.text.replace("\ufffd", "") == engine.tokenizer.decode(answer.token_ids).replace(
        "\ufffd", ""
    )


def test_abort_frees_everything_and_reports_what_was_generated(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(max_running=2)
    for i in range(4):
        engine.add(greedy(str(i), "abcdef", adapter=llama_adapters[0], max_tokens=50))
    seen = 0
    while seen < 10:
        seen += len(engine.step())
    chunks = [engine.abort(str(i)) for i in range(4)]
    assert [chunk.finish_reason for chunk in chunks] == ["abort"] * 4
    assert sum(chunk.completion_tokens for chunk in chunks) == seen
    assert engine.abort("0") is None
    assert engine.is_idle
    assert engine.status().kv_blocks_used == 0


def test_a_request_id_in_use_is_refused(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.add(greedy("same"))
    with pytest.raises(InvalidRequestError, match="in use"):
        engine.add(greedy("same"))
    drain(engine)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=0),
        Sampling(temperature=-1.0),
        Sampling(top_p=0.0),
        Sampling(stop=("",)),
        Sampling(max_tokens=2, min_tokens=3),
        Sampling(logit_bias={10_000: 1.0}),
        Sampling(logit_bias={1: 101.0}),
        Sampling(repetition_penalty=0.0),
        Sampling(logprobs=21),
    ],
)
def test_sampling_out_of_range_is_refused(sampling: Sampling, make_engine: Callable[..., Engine]) -> None:
    with pytest.raises(InvalidRequestError, match="sampling"):
        make_engine().add(Generate("r", prompt="x", sampling=sampling))


def test_messages_and_prompt_exclude_each_other(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    for command in (Generate("r"), Generate("r", prompt="x", messages=(Message("user", "y"),))):
        with pytest.raises(InvalidRequestError, match="either"):
            engine.add(command)


def test_chat_messages_go_through_the_models_template(make_engine: Callable[..., Engine]) -> None:
    tokenizer = make_engine().tokenizer
    messages = (Message("system", "S"), Message("user", "U"))
    by_hand = tokenizer.encode_prompt((), "<|system|>S<|end|><|user|>U<|end|><|assistant|>")
    assert tokenizer.encode_prompt(messages, None) == by_hand


def test_the_probe_holds_finite_numbers_for_an_answer_of_one_token(
    make_engine: Callable[..., Engine],
) -> None:
    probe = run_all(make_engine(), greedy("r", max_tokens=1, probe=True))["r"].last.probe
    assert probe.num_answer_tokens == 1
    assert all(map(math.isfinite, probe.answer))


def test_a_probe_that_is_not_finite_on_the_prompt_alone_is_never_delivered(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are finite, so nothing but the probe could tell."""
    engine = make_engine()
    forward = engine._runner.forward

    def overflow_at_first(step: Step) -> torch.Tensor:
        hidden = forward(step)
        if len(hidden) > 1:
            hidden[0] = math.inf
        return hidden

    monkeypatch.setattr(engine._runner, "forward", overflow_at_first)
    assert isinstance(run_all(engine, greedy("r", "abc", probe=True))["r"].error, NumericalError)
    engine.add(greedy("a", "abc", probe=True))
    engine.step()
    assert engine.abort("a").probe is None


def test_an_answer_that_leaves_the_numeric_range_has_a_last_chunk(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, num_steps = make_engine(), count()
    forward = engine._runner.forward

    def overflow_at_fourth(step: Step) -> torch.Tensor:
        hidden = forward(step)
        return hidden * math.nan if next(num_steps) == 3 else hidden

    monkeypatch.setattr(engine._runner, "forward", overflow_at_fourth)
    engine.add(greedy("r", "abc", probe=True))
    *chunks, failure = engine.run()
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, NumericalError)
    assert failure.last is not None
    assert failure.last.completion_tokens == len(chunks) == 3
    tokens = [token_id for chunk in chunks for token_id in chunk.token_ids]
    engine.embed("e", engine.tokenizer.encode_prompt((), "abc"), tokens, None)
    found, expected = failure.last.probe, drain(engine)["e"].last.probe
    assert found is not None
    assert found.answer == pytest.approx(expected.answer, abs=1e-4)
