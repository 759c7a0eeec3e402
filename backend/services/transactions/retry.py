"""Our transactions, sent again after a failure, but never twice at a time."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from backend.domain.transactions import TransactionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account
    from backend.domain.transactions import ChainTransaction


MOST_ATTEMPTS = 5
"""Where we try again unasked: a call that fails this often fails for good."""


def enqueue_again(
    tx: UnitOfWork,
    lane: Account,
    call: tuple[str, str],
    args: Sequence[Any],
    key: str,
    most: int | None = None,
    seen: int | None = None,
) -> int:
    """Row id of the newest attempt at `call` (contract, function), a new one if all before it failed.

    After `most` failures it is the last one's. `seen`: a block up to which the chain shows no effect of the
    call; an attempt that was confirmed up to there fell out of the chain since, and counts as failed.
    Errors: `Conflict` while an attempt at another call, or at the same one with other arguments, stands under
    the key.
    """
    for attempt in count(1):
        attempt_key = f"{key}:{attempt - 1}"
        known = tx.transactions.by_key(attempt_key)
        if known is None or not (known.state is TransactionState.FAILED or _fell_out(known, seen)):
            return tx.transactions.enqueue(
                lane, *call, args, attempt_key
            )  # it compares with what stands there
        if attempt == most:
            return known.id
    raise AssertionError


def _fell_out(known: ChainTransaction, seen: int | None) -> bool:
    if known.state is not TransactionState.CONFIRMED or known.block_number is None or seen is None:
        return False
    return known.block_number <= seen
