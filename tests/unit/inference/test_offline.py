from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference import offline
from inference.errors import ContextLengthExceededError
from inference.protocol import AdapterRef, EmbedItem, Message

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
