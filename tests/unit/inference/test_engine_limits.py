"""Full queues, and deadlines."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from inference.engine import Engine
from inference.errors import (
    DeadlineExceededError,
    OverloadedError,
)
from inference.lora.adapter import AdapterLoader
from inference.outputs import Failure
from tests.fixtures_engine import (
    drain,
    greedy,
    run_all,
    tiny_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.lora.adapter import Adapter
    from inference.protocol import AdapterRef


def test_a_full_waiting_line_is_refused_as_retryable(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=1, max_waiting=2)
    for i in range(2):
        engine.add(greedy(str(i)))
    with pytest.raises(OverloadedError) as refusal:
        engine.add(greedy("2"))
    assert refusal.value.is_retryable
    assert set(drain(engine)) == {"0", "1"}


def test_a_refused_request_is_freed_at_once(
    make_engine: Callable[..., Engine], without_garbage_collection: None
) -> None:
    engine = make_engine(max_running=1, max_waiting=1)
    engine.add(greedy("0"))
    refused = greedy("1")
    with contextlib.suppress(OverloadedError):
        engine.add(refused)
    assert sys.getrefcount(refused) == 2  # this name and the argument


def test_prompts_that_wait_have_a_bound_in_tokens(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=1, max_waiting_tokens=10)
    engine.add(greedy("longer than that, and alone", "x" * 20))
    with pytest.raises(OverloadedError, match="1 requests with 20 prompt tokens"):
        engine.add(greedy("refused", "x"))
    engine.step()
    engine.add(greedy("accepted", "x"))
    assert set(drain(engine)) == {"longer than that, and alone", "accepted"}


def test_a_payer_who_fills_the_line_gives_way_to_the_others(make_engine: Callable[..., Engine]) -> None:
    """Its youngest goes, until it takes no more of the line than who comes would."""
    engine = make_engine(max_running=1, max_waiting=4)
    engine.add(greedy("runs"))
    engine.step()
    for i in range(4):
        engine.add(greedy(f"hot{i}", payer="hot"))
    for i in range(2):
        engine.add(greedy(f"other{i}", payer="other"))
    for payer in ("hot", "other"):
        with pytest.raises(OverloadedError):
            engine.add(greedy("refused", payer=payer))
    answers = drain(engine)
    crowded_out = {key for key, answer in answers.items() if answer.error}
    assert crowded_out == {"hot2", "hot3"}
    assert all(isinstance(answers[key].error, OverloadedError) for key in crowded_out)


def with_ninety_of_a_hundred_tokens_waiting(make_engine: Callable[..., Engine]) -> Engine:
    """In three requests of the payer `hot`, behind one that runs."""
    engine = make_engine(max_running=1, max_waiting_tokens=100)
    engine.add(greedy("runs"))
    engine.step()
    for i in range(3):
        engine.add(greedy(f"hot{i}", "x" * 30, payer="hot"))
    return engine


def test_a_payer_who_fills_the_line_with_tokens_gives_way_too(make_engine: Callable[..., Engine]) -> None:
    engine = with_ninety_of_a_hundred_tokens_waiting(make_engine)
    engine.add(greedy("other", "x" * 40, payer="other"))
    answers = drain(engine)
    assert {key for key, answer in answers.items() if answer.error} == {"hot2"}


def test_no_request_is_shed_for_one_that_is_refused(make_engine: Callable[..., Engine]) -> None:
    """Without one of the three it would still not fit, and have the larger share."""
    engine = with_ninety_of_a_hundred_tokens_waiting(make_engine)
    with pytest.raises(OverloadedError, match="3 requests with 90 prompt tokens"):
        engine.add(greedy("refused", "x" * 70, payer="other"))
    assert not any(answer.error for answer in drain(engine).values())


def test_no_request_is_shed_for_a_lower_class(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_running=1, max_waiting=2)
    engine.add(greedy("runs"))
    engine.step()
    for i in range(2):
        engine.add(greedy(f"hot{i}", payer="hot"))
    with pytest.raises(OverloadedError):
        engine.add(greedy("refused", payer="other", priority=-1))
    assert not any(answer.error for answer in drain(engine).values())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_request_ends_when_its_deadline_has_passed(tiny_llama: Path) -> None:
    clock = Clock()
    engine = Engine(tiny_config(tiny_llama, max_running=1), clock=clock)
    engine.add(greedy("runs", max_tokens=50, deadline_ms=2000))
    engine.add(greedy("waits", max_tokens=2, deadline_ms=1000))
    engine.add(greedy("stays", max_tokens=2))
    engine.step()
    assert engine.seconds_to_deadline == 1.0
    clock.now = 1.0
    failed = [output for output in engine.step() if isinstance(output, Failure)]
    assert [(each.request_id, each.error.code) for each in failed] == [("waits", "deadline_exceeded")]
    assert failed[0].error.is_retryable
    clock.now = 2.0
    answers = drain(engine)
    assert isinstance(answers["runs"].error, DeadlineExceededError)
    assert answers["stays"].last.finish_reason == "length"
    assert engine.seconds_to_deadline is None
    engine.close()


def test_a_deadline_passes_while_everybody_waits_for_an_adapter(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load, load = threading.Event(), AdapterLoader.load

    def load_later(*arguments: Any) -> Adapter:
        may_load.wait(30)
        return load(*arguments)

    monkeypatch.setattr(AdapterLoader, "load", load_later)
    answers = run_all(make_engine(), greedy("r", adapter=llama_adapters[0], deadline_ms=50))
    may_load.set()
    assert isinstance(answers["r"].error, DeadlineExceededError)
