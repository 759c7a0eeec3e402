"""Finds the transaction that used a nonce."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.chain.node import Node
    from backend.domain.ids import Account, Hash32


def find_by_nonce(node: Node, account: Account, nonce: int, near: int, last: int) -> Hash32 | None:
    """The account's transaction with this nonce in blocks up to `last`; None if the node does not have it.

    The search starts near block `near`, because nodes keep transaction counts of recent blocks only.
    """
    first, step = max(near - 1, 0), 16
    while first and node.num_transactions(account, first) > nonce:
        first, step = max(first - step, 0), 2 * step
    low, high = first, last
    while high - low > 1:  # invariant: the count is at most the nonce at `low`, above it at `high`
        middle = (low + high) // 2
        if node.num_transactions(account, middle) > nonce:
            high = middle
        else:
            low = middle
    return node.sent_in(high, account, nonce)
