from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.sending.nonces import find_by_nonce
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.domain.ids import Account, Hash32

ACCOUNT = some_account("sender")
USED_IN = (3, 3, 90, 91, 400, 400, 401)
"""Block number of each of the account's transactions, by nonce."""


class CountingNode:
    """Returns counts from block `oldest` on, like a node that is not an archive node."""

    def __init__(self, oldest: int = 0) -> None:
        self._oldest = oldest

    def num_transactions(self, account: Account, block: int) -> int:
        assert account == ACCOUNT
        assert block >= self._oldest
        return bisect_right(USED_IN, block)

    def sent_in(self, block: int, account: Account, nonce: int) -> Hash32 | None:
        assert account == ACCOUNT
        return some_hash(f"nonce {nonce}") if USED_IN[nonce] == block else None


@pytest.mark.parametrize("near", [0, 1, 3, 90, 91, 92, 400, 450])
@pytest.mark.parametrize("nonce", range(len(USED_IN)))
def test_a_used_nonce_is_found_from_any_starting_block(nonce: int, near: int) -> None:
    node: Any = CountingNode()
    assert find_by_nonce(node, ACCOUNT, nonce, near, last=500) == some_hash(f"nonce {nonce}")


def test_a_search_near_the_block_reads_no_old_counts() -> None:
    node: Any = CountingNode(oldest=380)
    assert find_by_nonce(node, ACCOUNT, 5, near=401, last=500) == some_hash("nonce 5")


def test_an_unused_nonce_has_no_transaction() -> None:
    node: Any = CountingNode()
    node.sent_in = lambda *_: None
    assert find_by_nonce(node, ACCOUNT, 7, near=400, last=500) is None
