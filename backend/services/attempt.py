"""Our transactions, sent again after a failure, but never twice at a time."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from backend.domain.chain import TransactionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account
    from backend.ports.chain import Transactions


def enqueue_again(
    transactions: Transactions, lane: Account, call: tuple[str, str], args: Sequence[Any], key: str
) -> int:
    """Row id of the newest attempt at `call` (contract, function), a new one if all before it failed."""
    for attempt in count():
        attempt_key = f"{key}:{attempt}"
        known = transactions.by_key(attempt_key)
        if known is None:
            return transactions.enqueue(lane, *call, args, attempt_key)
        if known.state is not TransactionState.FAILED:
            return known.id
    raise AssertionError
