"""Sends the watcher's calls through the outbox of its database, within limits of gas and price.

The outbox stores each transaction before it is broadcast, and the sender broadcasts it again while the pool
has lost it, replaces it while it is stuck, and sends it again after a reorganisation. So a call that is still
on its way is never sent twice, not by a successor of a killed watcher either. Whether a call is needed at all
is decided from the chain: one that failed, or whose effect left the chain, is simply sent again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.chain import Reverted
from backend.domain.errors import NotFound
from backend.domain.hashing import keccak, to_bytes, to_hash, words
from backend.domain.transactions import Call, CallResult, TransactionState
from backend.services.transactions.retry import newest_attempt

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account, Hash32
    from backend.domain.transactions import ChainTransaction
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView

POLL_SECONDS = 0.1
MINED_SECONDS = 60.0
"""Longest wait for transactions to be mined; they stay in the outbox, and a later pass reports them."""
_UNMINED = frozenset({TransactionState.QUEUED, TransactionState.SENT})

NOT_RESERVED = "NotReserved"
"""Error of a proof that holds, but was not reserved in an earlier block."""


@dataclass(frozen=True, slots=True)
class GasLimits:
    """`gas` of one transaction; `price` in wei per gas, tip included."""

    gas: int
    price: int


class TooExpensive(Exception):
    """The call costs more than the limits allow."""


class WatcherTransactions:
    """Transactions of one account. `send_pending` is one pass of the sender over the outbox of `db`, with the
    account's key. Setting `stop` ends all waiting.
    """

    def __init__(
        self,
        db: Database,
        chain: Chain,
        account: Account,
        send_pending: Callable[[], None],
        limits: GasLimits,
        stop: threading.Event | None = None,
        num_kept: int = 1,
    ) -> None:
        self.account = account
        self._db, self._chain, self._limits, self._stop = db, chain, limits, stop
        self._num_kept = num_kept
        self.send_pending = send_pending

    def credit(self) -> int:
        """The account's credit in `Disputes`, in wei: it pays for bonds first. Errors: `Unavailable`."""
        return int(self._chain.call("Disputes", "creditOf", self.account))

    def funds(self) -> int:
        """What the account can pay for bonds, in wei: its credit, and its balance above what the gas of
        `num_kept` transactions may cost. Errors: `Unavailable`.
        """
        gas = self._num_kept * self._limits.gas * self._chain.gas_price()
        return self.credit() + max(self._chain.balance(self.account) - gas, 0)

    def withdraw_credit(self) -> CallResult:
        """Withdraw the account's credit to the account. Errors: `NotFound` without credit, `Unavailable`."""
        if not self.credit():
            raise NotFound(f"{self.account} has no credit in the contract Disputes")
        (result,) = self.send([Call("Disputes", "withdrawCredit", (self.account,))])
        return result

    def reservation(self, call: Call) -> Hash32:
        """The argument of `Disputes.reserve` for this call, which protects it from front-running."""
        called = to_hash(keccak(to_bytes(self._data(call))))
        return to_hash(keccak(words(self.account, called)))

    def refusal(self, call: Call) -> str:
        """Why the call would fail now; empty if it would succeed, is on its way or is only not reserved.

        Errors: `Unavailable`.
        """
        with self._db.read() as tx:
            if self._standing(tx, call) is not None:
                return ""
        try:
            self._affordable_gas(call)
        except Reverted as error:
            # The last check of a proof: all others hold.
            return "" if error.error == NOT_RESERVED else str(error)
        except TooExpensive as error:
            return str(error)
        return ""

    def is_on_its_way(self, view: ChainView, contract: str, function: str) -> bool:
        """Whether such a call is queued, sent, or in a block that the view does not show."""
        cursor = view.cursor()
        block = -1 if cursor is None else cursor.number
        with self._db.read() as tx:
            return tx.transactions.is_on_its_way(self.account, contract, function, block)

    def send(self, calls: Sequence[Call], worth: int | None = 0) -> list[CallResult]:
        """Send the calls that succeed when each is estimated alone, and wait for all of them.

        `worth` in wei: what each call may cost even if that exceeds the limits; None: anything. A call that
        would revert or costs more is not sent. Errors: `Unavailable`.
        """
        submitted = [self._submit(call, worth) for call in calls]
        self._wait([one for one in submitted if isinstance(one, int)])
        pairs = zip(calls, submitted, strict=True)
        return [self._result(call, one) if isinstance(one, int) else one for call, one in pairs]

    def _submit(self, call: Call, worth: int | None) -> int | CallResult:
        """Row id of the call's transaction, queued if there was none; or why it is not sent."""
        with self._db.read() as tx:
            standing = self._standing(tx, call)
        try:
            gas = (standing.gas if standing else None) or self._affordable_gas(call, worth)
            ceiling = self._fee_ceiling(gas, worth)
            if standing is None:
                self._check_price(ceiling)
        except Reverted as error:
            return CallResult(call, None, str(error), error.error or "Reverted")
        except TooExpensive as error:
            return CallResult(call, None, str(error))
        with self._db.begin() as tx:
            attempt_key, _ = newest_attempt(tx, self._key(call), _cursor(tx))
            target = (call.contract, call.function, call.args)
            return tx.transactions.enqueue(self.account, *target, attempt_key, ceiling, call.value)

    def _affordable_gas(self, call: Call, worth: int | None = 0) -> int:
        """Gas limit of the call. Errors: `Reverted` if it would fail now; `TooExpensive` if it needs more
        than the limit of gas and costs more than its worth.
        """
        prepared = self._chain.prepare(
            call.contract, call.function, *call.args, sender=self.account, value=call.value
        )
        gas = prepared.gas or 0
        if gas <= self._limits.gas or worth is None or gas * self._chain.gas_price() <= worth:
            return gas
        raise TooExpensive(f"it needs {gas} gas, above the limit of {self._limits.gas}")

    def _fee_ceiling(self, gas: int, worth: int | None) -> int | None:
        """Wei per gas."""
        if worth is None:
            return None
        within_worth = worth // gas
        return within_worth if gas > self._limits.gas else max(self._limits.price, within_worth)

    def _check_price(self, ceiling: int | None) -> None:
        """Errors: `TooExpensive` if no block takes a transaction with this fee now."""
        price = self._chain.gas_price()
        if ceiling is not None and price > ceiling:
            raise TooExpensive(f"gas costs {price} wei, above the limit of {ceiling}")

    def _standing(self, tx: UnitOfWork, call: Call) -> ChainTransaction | None:
        """The transaction that carries the call, unless it failed or its effect left the chain."""
        return newest_attempt(tx, self._key(call), _cursor(tx))[1]

    def _key(self, call: Call) -> str:
        return f"{call.contract}:{call.function}:{to_hash(keccak(to_bytes(self._data(call))))}"

    def _data(self, call: Call) -> str:
        return self._chain.prepare(call.contract, call.function, *call.args).data

    def _wait(self, transactions: Sequence[int]) -> None:
        """Send, and wait until all are mined or have failed, or the time is over."""
        if not transactions:
            return
        self.send_pending()
        until = time.monotonic() + MINED_SECONDS
        while not self._are_mined(transactions) and time.monotonic() < until:
            if self._pause():
                return
            self.send_pending()

    def _are_mined(self, transactions: Sequence[int]) -> bool:
        """Whether no transaction is queued or in the pool any more."""
        with self._db.read() as tx:
            return not any(tx.transactions.get(one).state in _UNMINED for one in transactions)

    def _result(self, call: Call, transaction_id: int) -> CallResult:
        with self._db.read() as tx:
            found = tx.transactions.get(transaction_id)
        if found.error is not None:
            name = str(found.error["error"])
            return CallResult(call, found.hash, str(found.error["message"]), name)
        if found.state in _UNMINED:
            return CallResult(call, found.hash, "it is not mined yet", is_pending=True)
        return CallResult(call, found.hash)

    def _pause(self) -> bool:
        """Wait a little; whether to stop waiting."""
        if self._stop is None:
            time.sleep(POLL_SECONDS)
            return False
        return self._stop.wait(POLL_SECONDS)


def _cursor(tx: UnitOfWork) -> int | None:
    """The newest block of the view, by which the need for a call was decided."""
    cursor = tx.chain.cursor()
    return None if cursor is None else cursor.number
