"""The events of `Disputes`, kept in memory: demands and answers live hours, and a start reads them again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from backend.chain.contracts import interface
from backend.chain.indexer import Indexer
from backend.chain.rpc import RpcError
from backend.domain.chain import ChainEvent
from backend.domain.errors import Unavailable
from backend.ports.disputes import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.chain.client import ChainClient
    from backend.chain.node import Log
    from backend.domain.chain import BlockRef
    from backend.domain.ids import Hash32

KEPT_BLOCKS = 1000
"""A reorg deeper than this reads everything again."""


class DisputeLog:
    """Implements `backend.ports.disputes.DisputeEvents`. Not to be shared between threads."""

    def __init__(self, client: ChainClient) -> None:
        self._client = client
        self._events: list[ChainEvent] = []
        self._blocks: list[BlockRef] = []
        self._indexer = Indexer(self, self._begin, client.deployment, confirmations=0)

    # What watchers ask

    def catch_up(self) -> None:
        with node_errors():
            self._indexer.catch_up()

    def demands(self) -> list[ChainEvent]:
        return [event for event in self._events if event.name == "Demanded"]

    def answers(self, demand: Hash32) -> list[Answer]:
        return [_answer(e) for e in self._events if e.name == "Answered" and e.args["id"] == demand]

    # Where the indexer reads: `backend.ports.chain.EventSource`

    def head(self) -> BlockRef:
        return self._client.head()

    def block(self, number: int) -> BlockRef | None:
        return self._client.block(number)

    def check(self) -> None:
        self._client.check()

    def events(self, first: int, last: int) -> list[ChainEvent]:
        logs = self._client.node.logs([self._client.address("Disputes")], first, last)
        return [event for event in map(_event, logs) if event is not None]

    # Where the indexer writes: `backend.ports.chain.EventLog`

    @contextmanager
    def _begin(self) -> Iterator[Self]:
        yield self

    @property
    def event_log(self) -> Self:
        return self

    def cursor(self) -> BlockRef | None:
        return self._blocks[-1] if self._blocks else None

    def locked_cursor(self) -> BlockRef | None:
        return self.cursor()

    def checkpoints(self) -> list[BlockRef]:
        return self._blocks[::-1]

    def append(self, events: Sequence[ChainEvent], cursor: BlockRef) -> None:
        self._events += events
        self._blocks = [*self._blocks[-KEPT_BLOCKS:], cursor]

    def rewind(self, to: BlockRef) -> int:
        kept = [event for event in self._events if event.block_number <= to.number]
        dropped = len(self._events) - len(kept)
        self._events = kept
        self._blocks = [block for block in self._blocks if block.number <= to.number]
        return dropped


@contextmanager
def node_errors() -> Iterator[None]:
    """A node's refusals as `Unavailable`: whoever asked may ask again."""
    try:
        yield
    except RpcError as error:
        raise Unavailable(f"the chain's node refuses: {error}") from error


def _event(log: Log) -> ChainEvent | None:
    entry = interface("Disputes").events.get(log.topics[0]) if log.topics else None
    if entry is None:
        return None
    return ChainEvent(
        block_number=log.block_number,
        block_hash=log.block_hash,
        log_index=log.log_index,
        tx_hash=log.tx_hash,
        timestamp=log.timestamp,
        contract="Disputes",
        name=entry.name,
        args=entry.decode_log(log.topics, log.data),
    )


def _answer(event: ChainEvent) -> Answer:
    call = bytes.fromhex(event.args["call"][2:])
    entry = interface("Disputes").by_selector(call[:4])
    if entry is None:  # the contract emits its own calldata only
        raise ValueError(f"{call[:4].hex()} is no function of Disputes")
    return Answer(event.args["i"], entry.name, entry.decode_args(call[4:]))
