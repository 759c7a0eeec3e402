from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from backend.services.channels.group_commit import MAX_GROUP, GroupCommit

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT_SECONDS = 60


class Doubler:
    """Answers with twice the number; negative ones are refused. It waits for `go` each time."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.is_busy, self.go = threading.Event(), threading.Event()
        self.group_commit: GroupCommit[int, int] = GroupCommit(self._answer, "doubler")

    def _answer(self, calls: Sequence[int]) -> list[int | Exception]:
        self.asked.append(list(calls))
        self.is_busy.set()
        assert self.go.wait(WAIT_SECONDS)
        if 13 in calls:
            raise ConnectionError("the store is gone")
        return [2 * call if call >= 0 else ValueError(f"{call} is negative") for call in calls]

    async def kept_busy(self, *calls: int) -> list[asyncio.Task[int]]:
        """With the call 0 until `go` is set; the calls wait in their order."""
        busy = asyncio.create_task(self.group_commit.submit(0))
        await asyncio.to_thread(self.is_busy.wait, WAIT_SECONDS)
        waiting = [asyncio.create_task(self.group_commit.submit(call)) for call in calls]
        await asyncio.sleep(0)
        return [busy, *waiting]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


async def test_a_lone_caller_does_not_wait(doubler: Doubler) -> None:
    doubler.go.set()
    assert await doubler.group_commit.submit(4) == 8
    assert await doubler.group_commit.submit(5) == 10
    assert doubler.asked == [[4], [5]]


async def test_concurrent_callers_are_grouped_in_their_order(doubler: Doubler) -> None:
    tasks = await doubler.kept_busy(1, 2, 3, 4, 5)
    doubler.go.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
    assert doubler.asked == [[0], [1, 2, 3, 4, 5]]


async def test_more_than_the_most_are_answered_in_turns(doubler: Doubler) -> None:
    tasks = await doubler.kept_busy(*[1] * (MAX_GROUP + 1))
    doubler.go.set()
    assert set(await asyncio.gather(*tasks)) == {0, 2}
    assert [len(calls) for calls in doubler.asked] == [1, MAX_GROUP, 1]


async def test_an_error_of_one_caller_does_not_affect_the_others(doubler: Doubler) -> None:
    _, refused, answered = await doubler.kept_busy(-1, 1)
    doubler.go.set()
    assert await answered == 2
    with pytest.raises(ValueError, match="-1 is negative"):
        await refused


async def test_a_failure_reaches_the_whole_group_and_the_next_group_succeeds(doubler: Doubler) -> None:
    _, *tasks = await doubler.kept_busy(13, 1)
    doubler.go.set()
    for task in tasks:
        with pytest.raises(ConnectionError):
            await task
    assert await doubler.group_commit.submit(1) == 2


async def test_a_call_whose_caller_is_cancelled_before_its_turn_is_not_made(doubler: Doubler) -> None:
    _, cancelled, answered = await doubler.kept_busy(1, 2)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    doubler.go.set()
    assert await answered == 4
    assert doubler.asked == [[0], [2]]


async def test_a_caller_cancelled_during_its_turn_does_not_block_others(doubler: Doubler) -> None:
    (cancelled,) = await doubler.kept_busy()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    doubler.go.set()
    assert await doubler.group_commit.submit(1) == 2


def test_callers_of_several_loops_are_answered_and_an_ended_loop_is_passed_over(doubler: Doubler) -> None:
    async def leave() -> None:
        await doubler.kept_busy(1)

    asyncio.run(leave())  # cancels both: one waits, one is being answered
    doubler.go.set()
    assert asyncio.run(doubler.group_commit.submit(2)) == 4
    assert asyncio.run(doubler.group_commit.submit(3)) == 6


async def test_a_call_for_which_no_thread_starts_fails_and_the_next_one_starts_it(
    doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubler.go.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await doubler.group_commit.submit(1)
    assert await asyncio.wait_for(doubler.group_commit.submit(2), WAIT_SECONDS) == 4
    assert doubler.asked == [[2]]


def _refuse(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
