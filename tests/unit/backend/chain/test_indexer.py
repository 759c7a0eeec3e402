"""The indexer against a simulated chain with forks and errors."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from backend.chain.indexer import FIRST_RANGE, MAX_RANGE, Indexer
from backend.chain.rpc import RpcError
from backend.domain.chain import BlockRef, ChainEvent, ChainReplaced
from backend.domain.deployment import Deployment
from backend.domain.errors import Unavailable
from backend.domain.ids import Hash32
from tests.support.chain_events import state_hash
from tests.support.databases import chain_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from backend.db.event_log import EventLog
    from backend.db.unit_of_work import Database

    Transaction = Callable[[], AbstractContextManager[EventLog]]

GENESIS = 1
"""Block of the first contract."""


class Killed(BaseException):
    """Simulates SIGKILL."""


class FakeChain:
    """Blocks with one stake event each. `fork` replaces the newest blocks."""

    def __init__(self, most_blocks: int = MAX_RANGE) -> None:
        self._most_blocks = most_blocks
        self._blocks: list[BlockRef] = []
        self._count = 0
        self.requested_sizes: list[int] = []
        self.num_missing = 0
        """Newest blocks whose logs are asked from a node that does not have them."""
        self.is_replaced = False
        self.is_hiding = False
        """Whether it answers for the logs of unknown blocks."""
        self.mine(GENESIS + 1)

    def mine(self, count: int = 1) -> None:
        for _ in range(count):
            self._count += 1
            parent = self._blocks[-1].hash if self._blocks else Hash32(f"0x{0:064x}")
            number = len(self._blocks)
            self._blocks.append(BlockRef(number, Hash32(f"0x{self._count:064x}"), parent, self._count))

    def fork(self, depth: int, length: int) -> None:
        depth = min(depth, len(self._blocks) - GENESIS - 1)
        del self._blocks[len(self._blocks) - depth :]
        self.mine(length)

    @property
    def deployment(self) -> Deployment:
        return Deployment(31337, GENESIS, self._blocks[GENESIS].hash, {})

    def head(self) -> BlockRef:
        return self._blocks[-1]

    def block(self, number: int) -> BlockRef | None:
        return self._blocks[number] if 0 <= number < len(self._blocks) else None

    def blocks(self, first: int, last: int) -> list[BlockRef]:
        if last >= len(self._blocks):
            raise RpcError("eth_getBlockByNumber", {"message": f"no block {last}"})
        return self._blocks[first : last + 1]

    def events(self, first: int, last: int) -> list[ChainEvent]:
        self.requested_sizes.append(last - first + 1)
        if last - first + 1 > self._most_blocks:
            raise RuntimeError("query returned more than 10000 results")
        return [_staked(block) for block in self._known()[first : last + 1]]

    def block_events(self, blocks: Sequence[BlockRef]) -> list[list[ChainEvent]]:
        if set(blocks) - set(self._known()):
            raise RpcError("eth_getLogs", {"message": "unknown block"})
        return [[_staked(block)] for block in blocks]

    def _known(self) -> list[BlockRef]:
        return self._blocks[: len(self._blocks) - self.num_missing]

    def check(self) -> None:
        if self.is_replaced:
            raise ChainReplaced("another chain")

    def check_block_logs(self) -> None:
        if self.is_hiding:
            raise Unavailable("upgrade it")


def _staked(block: BlockRef) -> ChainEvent:
    args = {"operator": f"0x{block.number % 3:040x}", "amount": int(block.hash, 16)}
    tx_hash = Hash32(block.hash)
    return ChainEvent(
        block.number, block.hash, 0, tx_hash, block.timestamp, "OperatorRegistry", "Staked", args
    )


def indexer(chain: FakeChain, database: Database, confirmations: int = 0) -> Indexer:
    return Indexer(chain, database.event_log, chain.deployment, confirmations)


def state(database: Database) -> tuple[BlockRef | None, int, Hash32]:
    with database.read() as tx:
        return tx.event_log.cursor(), tx.event_log.num_events(), state_hash(tx)


def replayed(chain: FakeChain, confirmations: int = 0) -> tuple[int, Hash32]:
    with chain_database() as database:
        indexer(chain, database, confirmations).catch_up()
        return state(database)[1:]


@pytest.fixture(autouse=True)
def _both_ways_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short chains too are read by ranges, apart from their newest blocks."""
    monkeypatch.setattr("backend.chain.indexer.NEWEST_BLOCKS", 2)


@pytest.fixture
def memory() -> Iterator[Database]:
    with chain_database() as database:
        yield database


def test_only_confirmed_blocks_are_read(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(5)
    indexer(chain, memory, confirmations=2).catch_up()
    cursor, num_events, _ = state(memory)
    assert cursor == chain.block(chain.head().number - 2)
    assert num_events == chain.head().number - 2 - GENESIS + 1


def test_catching_up_ends_where_blocks_come_faster_than_steps(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(5)
    at_first, head = chain.head(), chain.head

    def ever_higher() -> BlockRef:
        chain.mine()
        assert head().number < 50
        return head()

    chain.head = ever_higher  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[0] == chain.block(at_first.number + 1)


def test_refused_ranges_are_halved_and_grow_again(memory: Database) -> None:
    chain = FakeChain(most_blocks=10)
    chain.mine(102)
    indexer(chain, memory).catch_up()
    assert state(memory)[1] == chain.head().number
    refused, accepted = (
        [n for n in chain.requested_sizes if n > 10],
        [n for n in chain.requested_sizes if n <= 10],
    )
    assert refused[:4] == [100, 50, 25, 12]
    assert accepted[0] == 6
    assert len(accepted) < 101 / 5


@pytest.mark.parametrize(
    "has", [lambda n: n < 3, lambda n: n < 1 or n > 5], ids=["no checkpoint", "no older checkpoint"]
)
def test_a_node_without_indexed_blocks_is_waited_for(memory: Database, has: Callable[[int], bool]) -> None:
    """Another node behind the same address names the head."""
    chain = FakeChain()
    chain.mine(6)
    following = indexer(chain, memory)
    following.catch_up()
    chain.fork(depth=2, length=4)
    block, before = chain.block, state(memory)
    chain.block = lambda number: block(number) if has(number) else None  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="the node does not have block"):
        following.run_once()
    assert state(memory) == before
    chain.block = block  # type: ignore[method-assign]
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


@pytest.mark.parametrize("num_missing", [1, 2])
def test_logs_of_blocks_that_a_node_does_not_have_are_waited_for(
    memory: Database, num_missing: int, caplog: pytest.LogCaptureFixture
) -> None:
    chain = FakeChain()
    chain.mine(6)
    chain.num_missing = num_missing
    following, first = indexer(chain, memory), chain.head().number - num_missing + 1
    following.catch_up()
    assert f"block {first} yet, or refuses its logs: eth_getLogs: unknown block" in caplog.text
    assert state(memory)[0] == chain.block(first - 1)
    chain.num_missing = 0
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_newest_blocks_that_a_node_does_not_have_are_waited_for(memory: Database) -> None:
    """Another node behind the same address names the head."""
    chain = FakeChain()
    following = indexer(chain, memory)
    following.catch_up()
    chain.mine(2)
    head = chain.head()
    chain.fork(depth=1, length=0)
    chain.head = lambda: head  # type: ignore[method-assign]
    following.catch_up()
    assert state(memory)[0] == chain.block(head.number - 1)
    del chain.head
    chain.mine()
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_a_newest_block_that_a_node_does_not_have_any_more_is_read_again(memory: Database) -> None:
    chain = FakeChain()
    block, newest = chain.block, chain.head().number

    def lacking_once(number: int) -> BlockRef | None:
        if number != newest:
            return block(number)
        chain.block = block  # type: ignore[method-assign]
        return None

    chain.block = lacking_once  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[0] == chain.head()
    assert state(memory)[1:] == replayed(chain)


def test_the_newest_blocks_are_read_together(memory: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.chain.indexer.NEWEST_BLOCKS", 50)
    chain = FakeChain()
    chain.mine(49)
    sizes, read = [], chain.block_events

    def counted(blocks: Sequence[BlockRef]) -> list[list[ChainEvent]]:
        sizes.append(len(blocks))
        return read(blocks)

    chain.block_events = counted  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert sizes == [50]


def test_a_node_that_answers_for_unknown_blocks_is_not_asked_for_the_newest(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(6)
    chain.is_hiding = True
    following = indexer(chain, memory)
    with pytest.raises(Unavailable, match="upgrade it"):
        following.catch_up()
    assert state(memory)[0] == chain.block(chain.head().number - 2)
    chain.is_hiding = False
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_newest_blocks_that_do_not_follow_each_other_are_not_indexed(memory: Database) -> None:
    chain, other = FakeChain(), FakeChain()
    other._count = 1_000
    for one in (chain, other):
        one.mine(6)
    following, blocks = indexer(chain, memory), chain.blocks
    chain.blocks = lambda first, last: [*other.blocks(first, last - 1), chain.head()]  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="contradicts itself about the parent of block"):
        following.catch_up()
    chain.blocks = blocks  # type: ignore[method-assign]
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_a_newest_block_that_does_not_follow_the_last_indexed_one_is_not_indexed(memory: Database) -> None:
    """The node that names our last block as its own is not the one that has the new block."""
    chain, other = FakeChain(), FakeChain()
    chain.mine(6)
    following, own = indexer(chain, memory), chain.block
    following.catch_up()
    before, last = state(memory), chain.head().number
    other._blocks, other._count = chain._blocks[:-1], 1_000
    other.mine(2)
    chain.block = lambda number: own(number) or other.block(number)  # type: ignore[method-assign]
    chain.head, chain.blocks = other.head, other.blocks  # type: ignore[method-assign]
    chain.block_events = other.block_events  # type: ignore[method-assign]
    assert chain.head().number == last + 1
    with pytest.raises(Unavailable, match="contradicts itself about the parent of block"):
        following.run_once()
    assert state(memory) == before
    following = indexer(other, memory)
    following.catch_up()
    assert state(memory)[1:] == replayed(other)


def test_a_node_that_refuses_a_single_block_is_an_error(memory: Database) -> None:
    chain = FakeChain(most_blocks=0)
    chain.mine(2)
    with pytest.raises(Unavailable, match="refuses the logs of block 1: query returned more than"):
        indexer(chain, memory).catch_up()


def test_slow_answers_shorten_the_range(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(3 * MAX_RANGE)
    ticks = iter(range(0, 10**6, 60))
    slow = Indexer(chain, memory.event_log, chain.deployment, 0, clock=lambda: next(ticks))
    assert slow.run_once()
    assert slow.run_once()
    assert chain.requested_sizes == [FIRST_RANGE, FIRST_RANGE // 2]


def test_the_first_request_is_for_few_blocks_and_each_success_doubles_the_next(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(1002)
    indexer(chain, memory).catch_up()
    assert chain.requested_sizes == [100, 200, 400, 301]


def test_many_events_shorten_the_range(memory: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.chain.indexer.MANY_EVENTS", 40)
    chain = FakeChain()
    chain.mine(1000)
    indexer(chain, memory).catch_up()
    assert chain.requested_sizes[:5] == [100, 50, 25, 50, 25]
    assert state(memory)[1] == chain.head().number


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda events: [*events, events[-1]],
        lambda events: events[::-1],
        lambda events: [*events[:-1], replace(events[-1], block_hash=Hash32(f"0x{9:064x}"))],
        lambda events: [*events, replace(events[-1], block_number=99)],
        lambda events: [replace(events[0], block_number=0), *events],
    ],
    ids=["twice", "out of order", "of another fork", "after the range", "before the range"],
)
def test_inconsistent_logs_are_not_indexed(
    memory: Database, corrupt: Callable[[list[ChainEvent]], list[ChainEvent]]
) -> None:
    chain = FakeChain()
    chain.mine(5)
    read = chain.events
    chain.events = lambda first, last: corrupt(read(first, last))  # type: ignore[method-assign]
    following = indexer(chain, memory)
    with pytest.raises(Unavailable, match="contradicts itself"):
        following.catch_up()
    assert state(memory)[:2] == (None, 0)
    chain.events = read  # type: ignore[method-assign]
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_the_indexer_waits_for_a_shorter_chain_to_grow(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(5)
    indexer(chain, memory).catch_up()
    before = state(memory)
    chain.fork(depth=3, length=1)
    assert not indexer(chain, memory).run_once()
    assert state(memory) == before
    chain.mine(4)
    indexer(chain, memory).catch_up()
    assert state(memory)[0] == chain.head()
    assert state(memory)[1:] == replayed(chain)


def test_a_replaced_chain_is_an_error_and_loses_nothing(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(3)
    indexer(chain, memory).catch_up()
    before = state(memory)
    other = FakeChain()
    other._count = 1_000
    other._blocks.clear()
    other.mine(10)
    other.is_replaced = True
    with pytest.raises(ChainReplaced):
        indexer(other, memory).catch_up()
    assert state(memory) == before


def test_a_reorg_while_a_range_is_read_leaves_no_mixture(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(6)
    read = chain.events

    def read_and_fork(first: int, last: int) -> list[ChainEvent]:
        events = read(first, last)
        chain.events = read  # type: ignore[method-assign]
        chain.fork(depth=4, length=4)
        return events

    chain.events = read_and_fork  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_a_reorg_between_the_check_of_the_cursor_and_the_read_leaves_no_mixture(memory: Database) -> None:
    """The blocks that are read are of one fork, and the cursor's of another."""
    chain = FakeChain()
    chain.mine(6)
    indexer(chain, memory).catch_up()
    chain.mine(2)
    blocks = chain.blocks

    def fork_before_the_read(first: int, last: int) -> list[BlockRef]:
        chain.blocks = blocks  # type: ignore[method-assign]
        chain.fork(depth=4, length=4)
        return blocks(first, last)

    chain.blocks = fork_before_the_read  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[1:] == replayed(chain)


@pytest.mark.parametrize("is_counted", [False, True])
def test_one_indexer_of_an_installation_is_counted(memory: Database, is_counted: bool) -> None:
    names = ("indexed_events_total", "reorgs_total", "reorged_events_total")

    def counts() -> list[float]:
        return [REGISTRY.get_sample_value(f"loraledger_{name}") or 0.0 for name in names]

    chain, before = FakeChain(), counts()
    chain.mine(4)
    following = Indexer(chain, memory.event_log, chain.deployment, 0, is_counted=is_counted)
    following.catch_up()
    chain.fork(depth=1, length=2)
    following.catch_up()
    added = [after - earlier for after, earlier in zip(counts(), before, strict=True)]
    assert added == ([8, 1, 2] if is_counted else [0, 0, 0])


def test_two_indexers_store_each_event_once(memory: Database) -> None:
    chain = FakeChain()
    chain.mine(4)
    other, read = indexer(chain, memory), chain.events

    def read_while_the_other_is_faster(first: int, last: int) -> list[ChainEvent]:
        chain.events = read  # type: ignore[method-assign]
        other.catch_up()
        return read(first, last)

    chain.events = read_while_the_other_is_faster  # type: ignore[method-assign]
    indexer(chain, memory).catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_racing_indexers_store_each_event_once(database: Database) -> None:
    chain = FakeChain(most_blocks=3)
    chain.mine(40)
    rivals = [Thread(target=indexer(chain, database).catch_up) for _ in range(3)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert state(database)[0] == chain.head()
    assert state(database)[1:] == replayed(chain)


AWAY = Unavailable("no node")
REFUSED = RpcError("eth_getBlockByNumber", {"message": "header not found"})


@pytest.mark.parametrize(
    ("call", "error"),
    [("check", AWAY), ("head", AWAY), ("block", AWAY), ("blocks", AWAY), ("blocks", REFUSED)],
)
def test_the_indexer_waits_for_an_unavailable_node(memory: Database, call: str, error: Exception) -> None:
    chain = FakeChain()
    chain.mine(3)
    answer, calls = getattr(chain, call), 0

    def unwell_at_first(*args: int) -> object:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise error
        return answer(*args)

    class Stopping:
        """Ends the following once it is up to date."""

        def is_set(self) -> bool:
            return state(memory)[0] == chain._blocks[-1]

        def wait(self, seconds: float) -> None:
            assert calls < 100

    setattr(chain, call, unwell_at_first)
    indexer(chain, memory).run(Stopping(), poll_seconds=0)  # type: ignore[arg-type]
    assert calls > 2


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=8), st.integers(0, 3))
def test_any_reorgs_end_as_a_fresh_replay(forks: list[tuple[int, int]], confirmations: int) -> None:
    chain = FakeChain(most_blocks=4)
    with chain_database() as database:
        following = indexer(chain, database, confirmations)
        for depth, length in forks:
            chain.fork(depth, length)
            following.catch_up()
        chain.mine(10)
        following.catch_up()
        cursor, *rest = state(database)
    assert cursor == chain.block(chain.head().number - confirmations)
    assert tuple(rest) == replayed(chain, confirmations)


def test_an_indexer_killed_at_any_step_loses_and_repeats_nothing(memory: Database) -> None:
    """For every n, the process dies before or just after its n-th commit, across a reorganisation."""
    for is_committed in (False, True):
        for fatal in range(1, 12):
            chain = FakeChain(most_blocks=3)
            chain.mine(8)
            with chain_database() as database:
                indexer(chain, database).catch_up()
                chain.fork(depth=5, length=7)
                dying = Indexer(
                    chain,
                    _dies_at(database.event_log, fatal, is_committed),
                    chain.deployment,
                    confirmations=0,
                )
                try:
                    dying.catch_up()
                except Killed:
                    indexer(chain, database).catch_up()
                assert state(database)[1:] == replayed(chain)


def _dies_at(event_log: Transaction, fatal: int, is_committed: bool) -> Transaction:
    count = 0

    @contextmanager
    def dying() -> Iterator[EventLog]:
        nonlocal count
        count += 1
        with event_log() as log:
            yield log
            if count == fatal and not is_committed:
                raise Killed
        if count == fatal:
            raise Killed

    return dying


def test_an_unreachable_node_is_unavailable(memory: Database) -> None:
    chain = FakeChain()

    def away(first: int, last: int) -> list[ChainEvent]:
        raise Unavailable("no node")

    chain.events = away  # type: ignore[method-assign]
    chain.mine(7)
    waiting = indexer(chain, memory)
    with pytest.raises(Unavailable):
        waiting.run_once()
    del chain.events
    waiting.catch_up()
    assert state(memory)[1:] == replayed(chain)


def test_an_index_that_is_stopped_leaves_the_rest_to_the_next_one(memory: Database) -> None:
    chain, stop = FakeChain(), Event()
    chain.mine(3 * FIRST_RANGE)
    stop.set()
    indexer(chain, memory).catch_up(stop)
    assert state(memory)[0] is None
    following, read = indexer(chain, memory), chain.events

    def interrupted(first: int, last: int) -> list[ChainEvent]:
        stop.set()
        return read(first, last)

    stop.clear()
    chain.events = interrupted  # type: ignore[method-assign]
    following.catch_up(stop)
    assert chain.requested_sizes == [FIRST_RANGE]
    following.catch_up()
    assert state(memory)[1:] == replayed(chain)
