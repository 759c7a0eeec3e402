from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backend.domain.errors import Unavailable
from backend.ports.engine import EngineState
from backend.services.answers.engine_states import EngineStates
from tests.support.market import some_hash

BASE = some_hash("base")


class CountedEngine:
    """Answers when it may."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def state(self) -> EngineState:
        self.num_asked += 1
        self.is_asked.set()
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return EngineState(max_context=self.num_asked)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_all_who_ask_at_once_share_an_answer_even_if_the_first_hangs_up() -> None:
    engine: Any = CountedEngine()
    states = EngineStates({BASE: engine}, 1)
    first, *others = [asyncio.create_task(states.get()) for _ in range(5)]
    await engine.is_asked.wait()
    first.cancel()
    engine.may_answer.set()
    assert await asyncio.gather(*others) == [{BASE: EngineState(max_context=1)}] * 4
    assert first.cancelled()


async def test_an_answer_is_kept_for_a_second() -> None:
    engine: Any = CountedEngine()
    engine.may_answer.set()
    clock = Clock()
    states = EngineStates({BASE: engine}, 1, clock)
    found = []
    for _ in range(4):
        found.append((await states.get())[BASE].max_context)
        clock.now += 0.5
    assert found == [1, 1, 2, 2]


async def test_nothing_is_known_of_an_engine_that_is_away_and_a_defect_is_not_kept() -> None:
    engine: Any = CountedEngine()
    engine.may_answer.set()
    clock = Clock()
    states = EngineStates({BASE: engine}, 1, clock)
    engine.error = Unavailable("away")
    assert await states.get() == {BASE: EngineState()}
    clock.now += 1
    engine.error = RuntimeError("a defect")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a defect"):
            await states.get()
    assert engine.num_asked == 3
