from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference import offline
from inference.errors import ContextLengthExceededError
from inference.protocol import AdapterRef, EmbedItem, Generate, Message, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engine import Engine


@pytest.mark.parametrize("limits", [{"max_waiting": 4}, {"max_waiting_tokens": 15}])
def test_states_come_in_the_order_of_the_items_however_many(
    limits: dict[str, int], llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(max_running=3, **limits)
    items = [EmbedItem(prompt="x" * n, completion="y" * n) for n in range(1, 12)]
    states = offline.embed(engine, items, llama_adapters[0])
    assert [each.num_prompt_tokens for each in states] == list(range(1, 12))
    assert [each.num_answer_tokens for each in states] == list(range(2, 13))


def test_states_under_an_adapter_are_its_own(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    items = [EmbedItem(messages=(Message("user", "hi"),), completion="ho")]
    assert offline.embed(engine, items, llama_adapters[0]) != offline.embed(engine, items)


def test_one_bad_item_ends_the_call_and_leaves_the_engine_idle(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    with pytest.raises(ContextLengthExceededError):
        offline.embed(engine, [EmbedItem(prompt="fine"), EmbedItem(prompt="x" * 1000)])
    assert engine.is_idle


def test_answers_are_those_of_a_served_request_and_embed_to_its_states(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(max_running=3, max_waiting=4)
    prompts = [
        (engine.tokenizer.encode_prompt((), "x" * n), Sampling(max_tokens=5, temperature=0.8, seed=n))
        for n in range(1, 8)
    ]
    num_done = 0

    def count(num_ended: int) -> None:
        nonlocal num_done
        num_done += num_ended

    answers = offline.generate(engine, prompts, llama_adapters[0], count)
    assert num_done == len(answers) == 7
    token_ids, sampling = prompts[4]
    engine.add(Generate("4", adapter=llama_adapters[0], sampling=sampling, probe=True), token_ids)
    chunks = list(engine.run())
    assert answers[4] == [token for chunk in chunks for token in chunk.token_ids]
    (states,) = offline.embed_tokens(engine, [(token_ids, answers[4])], llama_adapters[0])
    assert states.answer == pytest.approx(chunks[-1].probe.answer, rel=1e-3, abs=1e-5)


def test_a_prompt_that_is_too_long_ends_generation_and_leaves_the_engine_idle(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    prompts = [([1, 2], Sampling(max_tokens=4)), ([1] * 1000, Sampling())]
    with pytest.raises(ContextLengthExceededError):
        offline.generate(engine, prompts)
    assert engine.is_idle
