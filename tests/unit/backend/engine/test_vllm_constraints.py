"""Constraints of answers by vLLM servers: whose are checked when, and what waits for it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import Overloaded
from backend.engine.vllm_answer import read_answer_parts
from inference.protocol import JsonSchema, Options, Sampling
from inference.sampling.grammar import GrammarCompiler
from inference.server import compilations
from tests.support.vllm import FakeVllm, chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.engine.vllm_constraints import Constraints


@pytest.fixture
def constraints(served_model: Path) -> Iterator[Constraints]:
    """Made outside of an event loop, as the installation's engines are."""
    found = read_answer_parts(served_model).constraints
    yield found
    found.close()


def test_constraints_that_wait_delay_nothing_else_and_payers_take_turns(
    constraints: Constraints, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    payers: list[str] = []

    def compile_(_: GrammarCompiler, __: Options, payer: str) -> None:
        payers.append(payer)
        may_end.wait()

    monkeypatch.setattr(GrammarCompiler, "compile", compile_)

    async def use() -> None:
        asked = [(f"{number}", "many") for number in range(40)] + [("one", "other")]
        checks = [asyncio.create_task(constraints.check(Options((name,)), payer)) for name, payer in asked]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                await asyncio.to_thread(lambda: None)
        finally:
            may_end.set()
        await asyncio.gather(*checks)

    asyncio.run(use())
    assert payers == ["many", "other"] + ["many"] * 39


def test_a_payer_with_too_many_waiting_constraints_is_refused(
    run: Callable[..., Any], vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilations, "MAX_OF_PAYER", 0)
    with pytest.raises(Overloaded, match="waiting already") as caught:
        run(lambda engine: chunks_of(engine, payer="a", sampling=Sampling(constraint=JsonSchema("{}"))))
    assert caught.value.details["code"] == "overloaded"
    assert not vllm.requests
