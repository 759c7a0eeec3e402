"""Queues a transaction again after it failed, with at most one attempt pending."""

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
"""Attempts of calls that are retried automatically."""


def enqueue_with_retry(
    tx: UnitOfWork,
    lane: Account,
    call: tuple[str, str],
    args: Sequence[Any],
    key: str,
    most: int | None = None,
    seen: int | None = None,
    value: int = 0,
) -> int:
    """Row id of the newest attempt at `call` (contract, function). Queues a new one, with `value` in wei, if
    all earlier ones failed.

    After `most` failures the id is the last attempt's. `seen` as in `newest_attempt`. Errors: `Conflict` if
    the key has a pending attempt at another call, or with other arguments.
    """
    attempt_key, _ = newest_attempt(tx, key, seen, most)
    # Raises `Conflict` if the key was used for another call.
    return tx.transactions.enqueue(lane, *call, args, attempt_key, value=value)


def newest_attempt(
    tx: UnitOfWork, key: str, seen: int | None, most: int | None = None
) -> tuple[str, ChainTransaction | None]:
    """Key of the attempt to use, and the attempt itself unless it is still to be queued.

    `seen`: a block up to which the chain shows no effect of the call; an attempt confirmed up to there was
    removed by a reorg and counts as failed. After `most` failures the last one is used.
    """
    for attempt in count(1):
        attempt_key = f"{key}:{attempt - 1}"
        known = tx.transactions.by_key(attempt_key)
        if known is None or attempt == most or not _has_failed(known, seen):
            return attempt_key, known
    raise AssertionError


def _has_failed(known: ChainTransaction, seen: int | None) -> bool:
    return known.state is TransactionState.FAILED or _was_removed(known, seen)


def _was_removed(known: ChainTransaction, seen: int | None) -> bool:
    if known.state is not TransactionState.CONFIRMED or known.block_number is None or seen is None:
        return False
    return known.block_number <= seen
