from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from inference import worker
from inference.worker import EngineWorker
from tests.fixtures_engine import greedy, tiny_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inference.engine import Engine, Output


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
    engine_worker.post(worker.accept("r", lambda engine: engine.add(greedy("r"))))
    engine_worker.start(deliver, on_crash=lambda _: None)
    was_answered = is_answered.wait(30)
    is_answered.set()
    engine_worker.stop()
    assert was_answered
