"""Nodes that do not answer, or lack blocks that the indexer has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.chain.rpc import RpcError
from backend.domain.errors import Unavailable
from tests.unit.backend.chain.indexer.support import FakeChain, indexer, replayed, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database
    from backend.domain.chain import ChainEvent


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
