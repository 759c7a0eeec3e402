"""What the stored transactions of a lane determine: the attempts that the pool is to have, the highest fee,
the relayed calls that give their nonces up, and what may still be relayed.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.chain.node import Fees
from backend.chain.transactions import is_filler
from backend.domain.money import GWEI
from backend.domain.transactions import RELAY_PERIOD, RELAYED_CALLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from backend.domain.ids import Account, Hash32
    from backend.domain.transactions import ChainTransaction, OpenTransaction, TransactionAttempt
    from backend.ports.chain import SendQueue

    OpenQueue = Callable[[], AbstractContextManager[SendQueue]]
    """Opens the queue for one transaction of the database."""

MAX_UNMINED = 64
"""Unmined transactions per lane; pools drop those beyond their limit per account."""
FEE_CEILING = 1_000 * GWEI
"""Highest `maxFeePerGas` of a replacement without a ceiling of its own, in wei."""
BUDGET_SPENT = "what those of 24 hours can cost has reached LORALEDGER_RELAY_BUDGET"


@dataclass(frozen=True, slots=True)
class RelayBudget:
    """Most that the relayed calls of 24 hours may cost, in wei; None: no limit."""

    limit: int | None

    def covers(self, queue: SendQueue, lane: Account, added: int) -> bool:
        """Whether relayed calls may cost this many wei more."""
        if self.limit is None:
            return True
        return queue.relay_cost(lane, datetime.now(UTC) - RELAY_PERIOD) + added <= self.limit


@contextmanager
def locked(queue: OpenQueue, lane: Account, transaction: OpenTransaction) -> Iterator[SendQueue | None]:
    """The queue with the lane locked; None if another sender has changed the transaction since."""
    with queue() as open_queue:
        open_queue.lock_lane(lane)
        yield open_queue if open_queue.is_unchanged(transaction) else None


def fee_ceiling(ceilings: Sequence[int | None]) -> int:
    """Highest fee for the lane's next transaction: the ones behind it wait for it, so it may offer as much as
    any of them. `ceilings` are those of its open transactions and of the operator's own in the queue, which
    cannot be signed while a call before them reverts or the most that pools keep are unmined.
    """
    return max((FEE_CEILING if one is None else one for one in ceilings), default=FEE_CEILING)


def is_relayed(transaction: ChainTransaction | OpenTransaction) -> bool:
    """Whether the operator sends the call for another account."""
    return transaction.function in RELAYED_CALLS


def is_own_call_waiting(queue: SendQueue, lane: Account) -> bool:
    """Whether a call of the operator's own is queued, or sent and not mined."""
    queued = queue.first_queued(lane)
    if queued is not None and not is_relayed(queued):
        return True
    sent = (one for one in queue.open(lane) if not one.is_mined and not one.is_filler)
    return not all(map(is_relayed, sent))


def is_given_up(transaction: OpenTransaction) -> bool:
    """Whether an empty transaction is signed with the nonce of a call, which is queued again afterwards."""
    return not transaction.is_filler and any(is_filler(one.raw) for one in transaction.attempts)


def relayed_behind(queue: SendQueue, lane: Account, transaction: OpenTransaction) -> list[OpenTransaction]:
    """The relayed calls behind a relayed call that are not mined and have not given their nonces up."""
    if transaction.is_filler:
        return []
    behind = (one for one in queue.open(lane) if one.nonce > transaction.nonce and not one.is_mined)
    return [one for one in behind if is_relayed(one) and not is_given_up(one)]


def offered(transaction: OpenTransaction) -> Sequence[TransactionAttempt]:
    """The attempts that the pool is to have: the empty ones once the nonce is given up."""
    return [one for one in transaction.attempts if is_filler(one.raw)] or transaction.attempts


def attempt_of(transaction: OpenTransaction, tx_hash: Hash32) -> TransactionAttempt:
    return next(one for one in transaction.attempts if one.tx_hash == tx_hash)


def fees_of(attempt: TransactionAttempt) -> Fees:
    return Fees(attempt.max_fee, attempt.priority_fee)


def hashes_of(transaction: OpenTransaction) -> list[Hash32]:
    return [attempt.tx_hash for attempt in reversed(transaction.attempts)]
