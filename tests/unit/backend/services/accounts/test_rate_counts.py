"""Counts in windows of a minute: like a plain dictionary, and exact among processes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from backend.db.unit_of_work import Database
from backend.domain.errors import DatabaseUnavailable
from backend.services.accounts import rate_counts
from backend.services.accounts.rate_counts import MemoryCounts, RateCounts, SharedCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

STALL_SECONDS = 15
"""The test may stop that long between two counts; steps of time are far enough from a minute."""
KEYS = ("requests key a", "requests wallet b", "tokens key a")
Calls = list[dict[str, int]]
CALLS = st.lists(
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 9), min_size=1), min_size=1, max_size=5
)
STEPS = st.lists(st.tuples(st.sampled_from([0, 40, 80, 200]), CALLS), min_size=1, max_size=8)


class Plain:
    """What counts should be. Time passes only when told."""

    def __init__(self) -> None:
        self.now = 0.0
        self._windows: dict[str, list[tuple[float, int]]] = {}
        """Begin and amounts of each window, by key."""

    def add(self, amounts: Mapping[str, int]) -> dict[str, tuple[int, float]]:
        found = {}
        for key, amount in amounts.items():
            windows = self._windows.setdefault(key, [])
            current = [window for window in windows if window[0] + 60 > self.now]
            begin = current[0][0] if current else self.now
            windows.append((begin, amount))
            total = sum(amount for other, amount in windows if other == begin)
            found[key] = total, begin + 60 - self.now
        return found


@pytest.fixture
def engines(postgres_database: Database) -> Iterator[list[Database]]:
    """Databases of three processes."""
    url = postgres_database.engine.url
    opened = [Database.open(url) for _ in range(3)]
    yield opened
    for one in opened:
        one.close()


def pass_seconds(database: Database, seconds: float) -> None:
    """The database's clock goes on, as far as counts can see."""
    with database.begin() as tx:
        moved = text("UPDATE rate_counts SET ends_at = ends_at - make_interval(secs => :seconds)")
        tx.session.execute(moved, {"seconds": seconds})


def compare(counts: RateCounts, steps: list[tuple[float, Calls]], passing: Callable[[float], None]) -> None:
    """Each step: seconds that pass, and calls that arrive at once."""
    plain = Plain()

    async def run() -> None:
        for seconds, calls in steps:
            passing(seconds)
            plain.now += seconds
            found = await asyncio.gather(*(counts.add(amounts) for amounts in calls))
            expected = [plain.add(amounts) for amounts in calls]
            assert [{key: count.total for key, count in one.items()} for one in found] == [
                {key: total for key, (total, _) in one.items()} for one in expected
            ]
            for one, other in zip(found, expected, strict=True):
                for key, count in one.items():
                    assert 0 <= other[key][1] - count.seconds_left < STALL_SECONDS

    asyncio.run(run())


@given(steps=STEPS)
def test_counts_in_memory_are_those_of_a_plain_dictionary(steps: list[tuple[float, Calls]]) -> None:
    now = 0.0

    def passing(seconds: float) -> None:
        nonlocal now
        now += seconds

    compare(MemoryCounts(lambda: now), steps, passing)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_shared_counts_are_those_of_a_plain_dictionary(
    postgres_database: Database, steps: list[tuple[float, Calls]]
) -> None:
    pass_seconds(postgres_database, 1000)
    compare(SharedCounts(postgres_database), steps, lambda seconds: pass_seconds(postgres_database, seconds))


def test_every_process_gets_a_total_of_its_own(engines: list[Database]) -> None:
    """Statements of many processes on the same keys, each in an order of its own: none is lost or counted
    twice, and none waits for another in a circle.
    """
    num_threads, num_rounds, at_once = 12, 10, 5

    def process(number: int) -> list[tuple[int, int]]:
        counts = SharedCounts(engines[number % len(engines)])
        names = ["a", *(f"key {index}" for index in range(40)), "b"]
        amounts = dict.fromkeys(names if number % 2 else reversed(names), 1) | {"b": 2}

        async def run() -> list[tuple[int, int]]:
            found = []
            for _ in range(num_rounds):
                answers = await asyncio.gather(*(counts.add(amounts) for _ in range(at_once)))
                found += [(one["a"].total, one["b"].total) for one in answers]
            return found

        return asyncio.run(run())

    with ThreadPoolExecutor(num_threads) as threads:
        found = sorted(pair for group in threads.map(process, range(num_threads)) for pair in group)
    assert found == [(n, 2 * n) for n in range(1, num_threads * num_rounds * at_once + 1)]


def test_the_minute_turns_once_for_all_processes(engines: list[Database]) -> None:
    """Many statements meet an ended window at once: one begins the next, and the others count in it."""
    num_threads = 12
    processes = [SharedCounts(engines[number % len(engines)]) for number in range(num_threads)]
    asyncio.run(processes[0].add({"a": 1000}))
    for _ in range(5):
        pass_seconds(engines[0], 61)
        with ThreadPoolExecutor(num_threads) as threads:
            answers = threads.map(lambda counts: asyncio.run(counts.add({"a": 1})), processes)
            assert sorted(one["a"].total for one in answers) == list(range(1, num_threads + 1))


async def test_ended_counts_are_deleted_in_bounded_statements(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_counts, "MAX_FORGOTTEN", 4)

    def stored() -> int:
        with postgres_database.read() as tx:
            return tx.session.scalar(text("SELECT count(*) FROM rate_counts")) or 0

    await SharedCounts(postgres_database).add({f"address {number}": 1 for number in range(10)})
    pass_seconds(postgres_database, 61)
    counts = SharedCounts(postgres_database)
    left = []
    for _ in range(5):
        await counts.add({"wallet": 1})
        left.append(stored())
    assert left == [7, 3, 1, 1, 1]  # the next deletion is due in a minute


async def test_counts_in_memory_are_deleted_too() -> None:
    now = 0.0
    counts = MemoryCounts(lambda: now)
    await counts.add({f"address {number}": 1 for number in range(10)})
    now = 61.0
    await counts.add({"wallet": 1})
    assert len(counts._counts) == 1


async def test_a_clock_that_is_set_back_holds_nobody_up_for_hours(postgres_database: Database) -> None:
    counts = SharedCounts(postgres_database)
    await counts.add({"wallet": 1000})
    pass_seconds(postgres_database, -3600)
    found = await counts.add({"wallet": 1})
    assert found["wallet"].total == 1
    assert found["wallet"].seconds_left == pytest.approx(60, abs=STALL_SECONDS)


async def test_without_the_database_nothing_is_admitted() -> None:
    away = Database.open("postgresql://market:secret@127.0.0.1:1/market")
    with pytest.raises(DatabaseUnavailable, match="not reachable"):
        await SharedCounts(away).add({"wallet": 1})
