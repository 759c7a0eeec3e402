from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from inference.errors import OverloadedError
from inference.server.engine_thread import EngineThread, SubmissionLimit
from tests.fixtures_engine import greedy, tiny_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.engine import Engine
    from inference.outputs import Output
    from inference.protocol import AdapterRef


class Panic(BaseException):
    """A Rust panic, which is not an `Exception`."""


@pytest.fixture
def engine_thread(tiny_llama: Path) -> EngineThread:
    return EngineThread(tiny_config(tiny_llama))


def test_the_thread_does_not_end_without_a_word(engine_thread: EngineThread) -> None:
    crashes: list[BaseException] = []

    def panic(_: Engine) -> Sequence[Output]:
        raise Panic

    engine_thread.start(deliver=lambda _: None, on_crash=crashes.append)
    engine_thread.post(panic)
    engine_thread.stop()
    assert [type(error) for error in crashes] == [Panic]


def test_a_flood_of_questions_does_not_stop_the_answers(engine_thread: EngineThread) -> None:
    is_answered = threading.Event()

    def deliver(outputs: Sequence[Output]) -> None:
        if any(output.finish_reason for output in outputs):
            is_answered.set()

    def question(_: Engine) -> Sequence[Output]:
        if not is_answered.is_set():
            engine_thread.post(question)  # there is always one more
        return []

    engine_thread.post(question)
    engine_thread.submit("r", "", 1, lambda engine: engine.add(greedy("r")))
    engine_thread.start(deliver, on_crash=lambda _: None)
    was_answered = is_answered.wait(30)
    is_answered.set()
    engine_thread.stop()
    assert was_answered


def test_submitted_requests_are_limited(tiny_llama: Path) -> None:
    """The engine's thread has not started, so it accepts none of them."""
    engine_thread = EngineThread(tiny_config(tiny_llama, max_waiting=2))
    for request_id in "ab":
        engine_thread.submit(request_id, "", 1, lambda engine: engine.add(greedy("r")))
    with pytest.raises(OverloadedError) as refusal:
        engine_thread.submit("c", "", 1, lambda engine: engine.add(greedy("r")))
    assert refusal.value.is_retryable
    engine_thread.stop()


def test_no_payer_can_use_up_the_submission_limit() -> None:
    limit = SubmissionLimit(max_requests=4, max_tokens=40)
    for _ in range(4):
        limit.enter("hot", 1)
    with pytest.raises(OverloadedError, match="4 requests with 4 prompt tokens"):
        limit.enter("hot", 1)
    for _ in range(2):
        limit.enter("other", 1)
    limit.leave("hot", 1)
    limit.leave("hot", 1)
    limit.enter("hot", 1)


def test_a_deadline_wakes_a_thread_that_waits_for_an_adapter(
    tiny_llama: Path, llama_adapters: list[AdapterRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load, is_over = threading.Event(), threading.Event()
    monkeypatch.setattr("inference.lora.adapter.AdapterLoader.load", lambda *_: may_load.wait(30))
    engine_thread = EngineThread(tiny_config(tiny_llama))
    command = greedy("r", adapter=llama_adapters[0], deadline_ms=50)
    engine_thread.submit("r", "", 1, lambda engine: engine.add(command))
    engine_thread.start(lambda _: is_over.set(), on_crash=lambda _: None)
    assert is_over.wait(30)
    may_load.set()
    engine_thread.stop()
