from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest

from backend.services.together import MOST, Together

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT_SECONDS = 60


class Doubler:
    """Answers with twice the number; negative ones are refused. It waits for `go` each time."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.is_busy, self.go = threading.Event(), threading.Event()
        self.together: Together[int, int] = Together(self._answer, "doubler")

    def _answer(self, calls: Sequence[int]) -> list[int | Exception]:
        self.asked.append(list(calls))
        self.is_busy.set()
        assert self.go.wait(WAIT_SECONDS)
        if 13 in calls:
            raise ConnectionError("the store is gone")
        return [2 * call if call >= 0 else ValueError(f"{call} is negative") for call in calls]

    def keep_busy(self) -> None:
        """Until `go` is set, with the call 0."""
        self.together.ask(0)
        assert self.is_busy.wait(WAIT_SECONDS)


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


def test_a_caller_who_is_alone_waits_for_nobody(doubler: Doubler) -> None:
    doubler.go.set()
    assert doubler.together.ask(4).result(WAIT_SECONDS) == 8
    assert doubler.together.ask(5).result(WAIT_SECONDS) == 10
    assert doubler.asked == [[4], [5]]


def test_those_that_come_meanwhile_are_answered_together_in_their_order(doubler: Doubler) -> None:
    doubler.keep_busy()
    futures = [doubler.together.ask(number) for number in range(1, 6)]
    doubler.go.set()
    assert [future.result(WAIT_SECONDS) for future in futures] == [2, 4, 6, 8, 10]
    assert doubler.asked == [[0], [1, 2, 3, 4, 5]]


def test_more_than_the_most_are_answered_in_turns(doubler: Doubler) -> None:
    doubler.keep_busy()
    futures = [doubler.together.ask(1) for _ in range(MOST + 1)]
    doubler.go.set()
    assert {future.result(WAIT_SECONDS) for future in futures} == {2}
    assert [len(calls) for calls in doubler.asked] == [1, MOST, 1]


def test_what_is_refused_to_one_is_answered_to_the_others(doubler: Doubler) -> None:
    doubler.keep_busy()
    refused, answered = doubler.together.ask(-1), doubler.together.ask(1)
    doubler.go.set()
    assert answered.result(WAIT_SECONDS) == 2
    with pytest.raises(ValueError, match="-1 is negative"):
        refused.result(WAIT_SECONDS)


def test_what_fails_for_all_is_told_to_all_and_the_next_are_answered(doubler: Doubler) -> None:
    doubler.keep_busy()
    futures = [doubler.together.ask(13), doubler.together.ask(1)]
    doubler.go.set()
    for future in futures:
        with pytest.raises(ConnectionError):
            future.result(WAIT_SECONDS)
    assert doubler.together.ask(1).result(WAIT_SECONDS) == 2


def test_a_call_that_is_cancelled_before_its_turn_is_not_made(doubler: Doubler) -> None:
    doubler.keep_busy()
    cancelled, answered = doubler.together.ask(1), doubler.together.ask(2)
    assert cancelled.cancel()
    doubler.go.set()
    assert answered.result(WAIT_SECONDS) == 4
    assert doubler.asked == [[0], [2]]
    with pytest.raises(CancelledError):
        cancelled.result(WAIT_SECONDS)
