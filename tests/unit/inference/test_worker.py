from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from inference.errors import OverloadedError
from inference.worker import EngineWorker, Entrance
from tests.fixtures_engine import greedy, tiny_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.engine import Engine, Output
    from inference.protocol import AdapterRef


class Panic(BaseException):
    """As a panic in Rust arrives: not an `Exception`."""


@pytest.fixture
def engine_worker(tiny_llama: Path) -> EngineWorker:
    return EngineWorker(tiny_config(tiny_llama))


def test_the_thread_does_not_end_without_a_word(engine_worker: EngineWorker) -> None:
    crashes: list[BaseException] = []

    def panic(_: Engine) -> Sequence[Output]:
        raise Panic

    engine_worker.start(deliver=lambda _: None, on_crash=crashes.append)
    engine_worker.post(panic)
    engine_worker.stop()
    assert [type(error) for error in crashes] == [Panic]


def test_a_flood_of_questions_does_not_stop_the_answers(engine_worker: EngineWorker) -> None:
    is_answered = threading.Event()

    def deliver(outputs: Sequence[Output]) -> None:
        if any(output.finish_reason for output in outputs):
            is_answered.set()

    def question(_: Engine) -> Sequence[Output]:
        if not is_answered.is_set():
            engine_worker.post(question)  # there is always one more
        return []

    engine_worker.post(question)
    engine_worker.submit("r", "", 1, lambda engine: engine.add(greedy("r")))
    engine_worker.start(deliver, on_crash=lambda _: None)
    was_answered = is_answered.wait(30)
    is_answered.set()
    engine_worker.stop()
    assert was_answered


def test_requests_on_their_way_have_a_bound(tiny_llama: Path) -> None:
    """Nothing takes them in yet: the engine's thread has not begun."""
    engine_worker = EngineWorker(tiny_config(tiny_llama, max_waiting=2))
    for request_id in "ab":
        engine_worker.submit(request_id, "", 1, lambda engine: engine.add(greedy("r")))
    with pytest.raises(OverloadedError) as refusal:
        engine_worker.submit("c", "", 1, lambda engine: engine.add(greedy("r")))
    assert refusal.value.is_retryable
    engine_worker.stop()


def test_no_payer_can_close_the_entrance_to_the_others() -> None:
    entrance = Entrance(max_requests=4, max_tokens=40)
    for _ in range(4):
        entrance.enter("hot", 1)
    with pytest.raises(OverloadedError, match="4 requests with 4 prompt tokens"):
        entrance.enter("hot", 1)
    for _ in range(2):
        entrance.enter("other", 1)
    entrance.leave("hot", 1)
    entrance.leave("hot", 1)
    entrance.enter("hot", 1)


def test_a_deadline_wakes_a_thread_that_waits_for_an_adapter(
    tiny_llama: Path, llama_adapters: list[AdapterRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load, is_over = threading.Event(), threading.Event()
    monkeypatch.setattr("inference.lora.adapter.AdapterLoader.load", lambda *_: may_load.wait(30))
    engine_worker = EngineWorker(tiny_config(tiny_llama))
    command = greedy("r", adapter=llama_adapters[0], deadline_ms=50)
    engine_worker.submit("r", "", 1, lambda engine: engine.add(command))
    engine_worker.start(lambda _: is_over.set(), on_crash=lambda _: None)
    assert is_over.wait(30)
    may_load.set()
    engine_worker.stop()
