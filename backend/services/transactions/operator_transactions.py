"""Queues the operator's own transactions; a call that is already queued is not queued twice."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account
    from backend.domain.transactions import ChainTransaction
    from backend.ports.chain import Chain


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction to queue. `intent` names the change from one state to another: while a transaction is
    pending, a call with the same intent and arguments is the same transaction.
    """

    contract: str
    function: str
    args: tuple[Any, ...]
    intent: str
    is_simulated: bool = False
    """Simulate the call before queueing it. Must be false if it depends on a call that is still queued."""


class OperatorTransactions:
    """Transactions in the lane of `own`, which pays their gas."""

    def __init__(
        self,
        db: Database,
        chain: Chain,
        own: Account,
    ) -> None:
        self._db, self._chain, self._own = db, chain, own

    def queue(
        self, calls: Sequence[Call], check: Callable[[UnitOfWork], None] = lambda _: None
    ) -> list[ChainTransaction]:
        """Queue the calls in order, except those that are already queued or sent. `check` may refuse by an
        error; no other transaction of this account is queued at the same time.

        Errors: `Conflict` if the account has no coin for gas, or while a call of the same function with
        another intent is pending; `Reverted` if a call would fail.
        """
        if calls and not self._chain.balance(self._own):
            raise Conflict(f"{self._own} has no coin to pay for gas: send it some of the network's coin.")
        self._simulate(calls)
        with self._db.begin() as tx:
            tx.transactions.lock_lane(self._own)  # else two concurrent commands would each queue theirs
            check(tx)
            pending = [self._pending(tx, call) for call in calls]
            pairs = zip(calls, pending, strict=True)
            return [known or self._enqueue(tx, call) for call, known in pairs]

    def add(self, call: Call) -> ChainTransaction:
        """Queue the call behind all others, without a check for duplicates."""
        with self._db.begin() as tx:
            return self._enqueue(tx, call)

    def transaction(self, transaction_id: int) -> ChainTransaction:
        """Errors: `NotFound`."""
        with self._db.read() as tx:
            return tx.transactions.get(transaction_id)

    def _simulate(self, calls: Sequence[Call]) -> None:
        """Simulate new calls in the node's pending state. Calls that are already sent would fail there."""
        with self._db.read() as tx:
            new = [call for call in calls if self._pending(tx, call) is None]
        for call in new:
            if call.is_simulated:
                self._chain.prepare(call.contract, call.function, *call.args, sender=self._own)

    def _pending(self, tx: UnitOfWork, call: Call) -> ChainTransaction | None:
        found = tx.transactions.to_be_mined(self._own, call.contract, call.function)
        for one in found:
            if (_intent_of(one), one.args) == (call.intent, call.args):
                return one
        for one in found:
            if _intent_of(one) != call.intent:  # it will change the state from which this call was derived
                raise Conflict(
                    f"Transaction {one.id}, {call.contract}.{call.function}, is pending: repeat this once "
                    "it is mined, and check that `loraledger send` runs.",
                    details={"transaction_id": one.id},
                )
        return None

    def _enqueue(self, tx: UnitOfWork, call: Call) -> ChainTransaction:
        key, transactions = f"{call.intent}:{secrets.token_hex(8)}", tx.transactions
        return transactions.get(transactions.enqueue(self._own, call.contract, call.function, call.args, key))


def _intent_of(transaction: ChainTransaction) -> str:
    return transaction.idempotency_key.rpartition(":")[0]
