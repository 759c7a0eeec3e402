"""What a command wishes our own operator to send: queued once, however often it is wished for meanwhile."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account
    from backend.domain.transactions import ChainTransaction
    from backend.ports.chain import Chain


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction that is wished for. `wish` says from which state to which: equal wishes are one."""

    contract: str
    function: str
    args: tuple[Any, ...]
    wish: str
    is_simulated: bool = False
    """Before it is queued: it needs nothing of what is queued before it."""


class OperatorTransactions:
    """On the lane of `own`, which pays their gas."""

    def __init__(
        self,
        db: Database,
        chain: Chain,
        own: Account,
    ) -> None:
        self._db, self._chain, self._own = db, chain, own

    def queue(self, calls: Sequence[Call]) -> list[ChainTransaction]:
        """In their order, but for those that are queued or sent already.

        Errors: `Conflict` without gas, and while a call of the same function is under way for another wish;
        `Reverted` for what would fail.
        """
        if calls and not self._chain.balance(self._own):
            raise Conflict(f"{self._own} has nothing to pay gas with: send it the network's coin.")
        self._simulate(calls)
        with self._db.begin() as tx:
            tx.transactions.lock_lane(self._own)  # or two commands at once would each queue theirs
            waiting = [self._waiting(tx, call) for call in calls]
            pairs = zip(calls, waiting, strict=True)
            return [known or self._enqueue(tx, call) for call, known in pairs]

    def add(self, call: Call) -> ChainTransaction:
        """Behind all that waits, whatever that is."""
        with self._db.begin() as tx:
            return self._enqueue(tx, call)

    def transaction(self, transaction_id: int) -> ChainTransaction:
        """Errors: `NotFound`."""
        with self._db.read() as tx:
            return tx.transactions.get(transaction_id)

    def _simulate(self, calls: Sequence[Call]) -> None:
        """On top of what waits in the node's pool: what is sent already would fail there."""
        with self._db.read() as tx:
            new = [call for call in calls if self._waiting(tx, call) is None]
        for call in new:
            if call.is_simulated:
                self._chain.prepare(call.contract, call.function, *call.args, sender=self._own)

    def _waiting(self, tx: UnitOfWork, call: Call) -> ChainTransaction | None:
        found = tx.transactions.to_be_mined(self._own, call.contract, call.function)
        for one in found:
            if (_wish_of(one), one.args) == (call.wish, call.args):
                return one
        for one in found:
            if _wish_of(one) != call.wish:  # this one was judged by what that one is about to change
                raise Conflict(
                    f"Transaction {one.id}, {call.contract}.{call.function}, is under way: repeat this once "
                    "it is mined, and see that `loraledger send` runs.",
                    details={"transaction_id": one.id},
                )
        return None

    def _enqueue(self, tx: UnitOfWork, call: Call) -> ChainTransaction:
        key, transactions = f"{call.wish}:{secrets.token_hex(8)}", tx.transactions
        return transactions.get(transactions.enqueue(self._own, call.contract, call.function, call.args, key))


def _wish_of(transaction: ChainTransaction) -> str:
    return transaction.idempotency_key.rpartition(":")[0]
