"""A simulated chain with forks and errors, and indexers of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.chain.indexer import MAX_RANGE, Indexer
from backend.chain.rpc import RpcError
from backend.domain.chain import BlockRef, ChainEvent, ChainReplaced
from backend.domain.deployment import Deployment
from backend.domain.errors import Unavailable
from backend.domain.ids import Hash32
from tests.support.chain_events import state_hash
from tests.support.databases import chain_database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database


GENESIS = 1
"""Block of the first contract."""


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
