"""Indexes the chain into the database: each step writes events, projections and cursor in one transaction.

A step that is interrupted before its commit is repeated; committed blocks are never read twice. A block is
indexed once it has N confirmations, and rolled back if a deeper reorganisation drops it.
"""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from backend.chain.rpc import RpcError
from backend.domain.errors import DomainError, Unavailable
from backend.domain.ids import ZERO_HASH
from backend.metrics import HEAD_BLOCK, INDEXED_EVENTS, REORGED_EVENTS, REORGS

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from backend.chain.client import ChainClient
    from backend.domain.chain import BlockRef, ChainEvent
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Hash32
    from backend.ports.chain import EventLog

log = logging.getLogger(__name__)

FIRST_RANGE, MAX_RANGE = 100, 5_000
"""Blocks of the first request, and of any: few at first, because blocks may have been filled with events."""
MANY_EVENTS = 20_000
"""A range with more events halves the next one, because writing it blocks all other writers of SQLite."""
NEWEST_BLOCKS = 128
"""The newest blocks, which some of the nodes behind one address may not have yet. Their logs are read by
their hashes: a node without the block refuses, where it leaves the block out of a range of numbers.
"""
SLOW_SECONDS = 5.0
POLL_SECONDS = 0.5


class _Read(NamedTuple):
    """What is read of a range of blocks."""

    end: BlockRef
    events: list[ChainEvent]
    parent: Hash32 = ZERO_HASH
    """Hash of the block before the range, as far as its first block names it."""


class Indexer:
    """`is_counted`: whether its metrics are exported. Only one indexer of an installation is counted: rewinds
    without confirmations are no fault of the node.
    """

    def __init__(
        self,
        source: ChainClient,
        event_log: Callable[[], AbstractContextManager[EventLog]],
        deployment: Deployment,
        confirmations: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_counted: bool = False,
    ) -> None:
        self._source = source
        self._event_log = event_log
        self._before_first = deployment.block_number - 1
        self._confirmations = confirmations
        self._clock = clock
        self._is_counted = is_counted
        self._range = FIRST_RANGE
        self._are_logs_checked = False

    def run_once(self) -> bool:
        """Roll back dropped blocks, or else index the next range. Returns False if there is nothing to do.

        Errors: `ChainReplaced`, `Unavailable`.
        """
        return self._step(self._head())

    def catch_up(self, stop: threading.Event | None = None) -> None:
        """Run steps up to the present head, less the confirmations, or until `stop` is set. Errors: as of
        `run_once`.

        Later blocks are left out: where they come faster than steps, there is always a new one.
        """
        head = self._head()
        while not (stop is not None and stop.is_set()) and self._step(head):
            pass

    def run(self, stop: threading.Event, poll_seconds: float = POLL_SECONDS) -> None:
        """Run until `stop` is set; retry while the node is unavailable. Errors: `ChainReplaced`."""
        is_checked = False
        while not stop.is_set():
            is_busy = False
            try:
                if not is_checked:
                    self._source.check()
                    is_checked = True
                is_busy = self.run_once()
            except Unavailable as error:
                log.warning("indexer waits for the node: %s", error)
            if not is_busy:
                stop.wait(poll_seconds)

    def _head(self) -> int:
        head = self._source.head().number
        if self._is_counted:
            HEAD_BLOCK.set(head)
        return head

    def _step(self, head: int) -> bool:
        cursor, target = self._cursor(), head - self._confirmations
        if cursor is not None and target < cursor.number:
            return False  # a lagging node or a shorter fork: wait until it reaches our cursor
        if cursor is not None and not self._is_canonical(cursor):
            self._rewind(cursor)
            return True
        after = self._before_first if cursor is None else cursor.number
        if target <= after:
            return False
        return self._advance(cursor, after + 1, target, head)

    def _cursor(self) -> BlockRef | None:
        with self._event_log() as event_log:
            return event_log.cursor()

    def _is_canonical(self, block: BlockRef) -> bool:
        return self._block(block.number).hash == block.hash

    def _block(self, number: int) -> BlockRef:
        """A block that is not above the head. Errors: `Unavailable` if the node does not have it: another
        node behind the same address may have named the head, so this is no sign of a reorganisation.
        """
        block = self._source.block(number)
        if block is None:
            raise Unavailable(f"the node does not have block {number}, which is not above the head")
        return block

    def _advance(self, cursor: BlockRef | None, first: int, target: int, head: int) -> bool:
        read = self._read_newest
        if first <= head - NEWEST_BLOCKS:
            read, target = self._read_range, min(target, head - NEWEST_BLOCKS)
        last = min(first + self._range - 1, target)
        found = self._try(read, first, last)
        if found is None:
            return last > first
        end, events, parent = found
        # The events are of one fork only if both ends of the range are canonical after reading too.
        again = self._source.block(last)
        if again is None or again.hash != end.hash or not (cursor is None or self._is_canonical(cursor)):
            return True
        if cursor is not None and parent not in {cursor.hash, ZERO_HASH}:
            raise Unavailable(f"the node contradicts itself about the parent of block {first}")
        with self._event_log() as event_log:
            if event_log.locked_cursor() == cursor:  # else another indexer was faster
                event_log.append(events, end)
        if self._is_counted:
            INDEXED_EVENTS.inc(len(events))
        return True

    def _read_range(self, first: int, last: int) -> _Read:
        end = self._block(last)
        events = self._source.events(first, last)
        _check_consistent(events, first, end)
        return _Read(end, events)

    def _read_newest(self, first: int, last: int) -> _Read:
        """Errors: `RpcError` if the node does not have all of the blocks."""
        if not self._are_logs_checked:
            self._source.check_block_logs()
            self._are_logs_checked = True
        blocks = self._source.blocks(first, last)
        for parent, block in pairwise(blocks):
            # Hardhat does not name the parents of empty blocks that it mines at once.
            if block.parent_hash not in {parent.hash, ZERO_HASH}:
                raise Unavailable(f"the node contradicts itself about the parent of block {block.number}")
        events: list[ChainEvent] = []
        for block, found in zip(blocks, self._source.block_events(blocks), strict=True):
            _check_consistent(found, block.number, block)
            events += found
        return _Read(blocks[-1], events, blocks[0].parent_hash)

    def _try(self, read: Callable[[int, int], _Read], first: int, last: int) -> _Read | None:
        """What is read of the range; None if the node refuses so many blocks, or a newest one, which
        it does not have yet: another node behind the same address may have named the head.

        A refusal halves the next range, a whole range that succeeds doubles it.
        """
        started = self._clock()
        try:
            found = read(first, last)
        except Exception as error:
            num_blocks = last - first + 1
            self._range = max(num_blocks // 2, 1)
            if isinstance(error, DomainError):
                raise
            if num_blocks == 1 and read == self._read_newest and isinstance(error, RpcError):
                log.warning("the node does not have block %d yet, or refuses its logs: %s", first, error)
                return None
            if num_blocks == 1:
                raise Unavailable(f"the node refuses the logs of block {first}: {error}") from error
            log.info("node refuses %d blocks: %s", num_blocks, error)
            return None
        is_slow = self._clock() - started > SLOW_SECONDS
        if is_slow or len(found.events) > MANY_EVENTS:
            self._range = max(self._range // 2, 1)
        elif last - first + 1 < self._range:
            self._range = min(
                self._range, FIRST_RANGE
            )  # at the head: the next range may be one after an outage
        else:
            self._range = min(self._range * 2, MAX_RANGE)
        return found

    def _rewind(self, cursor: BlockRef) -> None:
        with self._event_log() as event_log:
            checkpoints = event_log.checkpoints()
        fork = next((block for block in checkpoints if self._is_canonical(block)), None)
        if fork is None:
            self._source.check()
            fork = self._block(self._before_first)
        with self._event_log() as event_log:
            if event_log.locked_cursor() == cursor:
                dropped = event_log.rewind(fork)
                if self._is_counted:
                    REORGS.inc()
                    REORGED_EVENTS.inc(dropped)
                log.warning("reorg: rewound to block %d, %d events dropped", fork.number, dropped)


def _check_consistent(events: Sequence[ChainEvent], first: int, last: BlockRef) -> None:
    """Check that the events are ordered, unique, inside the range, and of one block hash per number.

    One address may have several nodes behind it, on several forks. Errors: `Unavailable`.
    """
    hashes = {last.number: last.hash}
    previous = (first, -1)
    for event in events:
        position = event.block_number, event.log_index
        is_sound = previous < position and event.block_number <= last.number
        if not is_sound or hashes.setdefault(event.block_number, event.block_hash) != event.block_hash:
            raise Unavailable(f"the node contradicts itself about the logs of block {event.block_number}")
        previous = position
