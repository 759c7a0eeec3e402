"""Transactions that the operator sends, and pays the gas of, for accounts that sign or ask for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.errors import DomainError, Unavailable
from backend.domain.money import GWEI
from backend.domain.transactions import RELAY_PERIOD
from backend.services.transactions.retry import newest_attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account
    from backend.ports.chain import Chain

ACCOUNT_SHARE = 10
"""One account may use a tenth of the budget."""
FEE_OF_PRICE = 2
"""Transactions are signed for at most this multiple of the price of gas, in case the base fee rises."""
RETRY_AFTER = timedelta(hours=1)
"""If no signed transaction leaves the period, the price of gas has to fall first."""


class RelayBudgetSpent(DomainError):
    """The gas of relayed transactions has reached the operator's budget, or the account's share of it."""


@dataclass(frozen=True, slots=True)
class Relay:
    """A call that the operator sends for `account`. The same `key` stands for the same call, which is sent
    again once it has failed.
    """

    account: Account
    contract: str
    function: str
    args: Sequence[Any]
    key: str
    gas: int | None
    """Estimated gas limit of its transaction; None if that is already queued."""
    fee: int
    """Highest price at which its gas is signed now, in wei; 0 if the transaction is already queued."""


class Relays:
    """Relayed transactions may cost `budget` wei in 24 hours: their gas limits at the highest fees for which
    they are signed. None: no limit. `backend.chain.sending` enforces the budget; this class refuses early, so
    that the account can send the transaction itself. `lane` is the operator's account that sends them.
    """

    def __init__(
        self, db: Database, chain: Chain, lane: Account, budget: int | None, clock: Callable[[], datetime]
    ) -> None:
        self._db, self._chain, self._lane = db, chain, lane
        self._budget, self._clock = budget, clock

    def relay(self, account: Account, call: tuple[str, str], args: Sequence[Any], key: str) -> int:
        """Queue a call (contract, function); returns the id of its transaction. Errors: of `prepare` and
        `queue`, after which nothing is queued.
        """
        relay = self.prepare(account, call, args, key)
        with self._db.begin() as tx:
            return self.queue(tx, relay)

    def prepare(
        self,
        account: Account,
        call: tuple[str, str],
        args: Sequence[Any],
        key: str,
        gas: int | None = None,
    ) -> Relay:
        """Simulate the call. With `gas`, an estimate, it is not simulated: it depends on another one that is
        not mined yet.

        Errors: `Reverted` if the call would fail, which the operator would pay for; `RelayBudgetSpent`.
        """
        with self._db.read() as tx:
            _, known = newest_attempt(tx, key, None)
        if known is not None:
            return Relay(account, *call, args, key, gas=None, fee=0)
        if gas is None:
            gas = self._chain.prepare(*call, *args, sender=self._lane).gas or 0
        relay = Relay(account, *call, args, key, gas, FEE_OF_PRICE * self._chain.gas_price())
        with self._db.read() as tx:
            self._check_budget(tx, relay)
        return relay

    def lock(self, tx: UnitOfWork) -> None:
        """Lock the lane, as `queue` does: the sender may hold it while a remote key signs, so it is locked
        before anything that others wait for.
        """
        tx.transactions.lock_lane(self._lane)

    def queue(self, tx: UnitOfWork, relay: Relay) -> int:
        """Queue a prepared relay; returns the id of its transaction, which is an earlier one's while that has
        not failed.

        Errors: `RelayBudgetSpent`; `Conflict` if the key stands for another call.
        """
        self.lock(tx)  # else concurrent relays could together exceed the budget
        key, known = newest_attempt(tx, relay.key, None)
        if known is None:
            self._check_budget(tx, relay)
        queued = tx.transactions.enqueue(
            self._lane, relay.contract, relay.function, relay.args, key, gas=relay.gas
        )
        tx.transactions.record_request(relay.account, queued)
        return queued

    def _check_budget(self, tx: UnitOfWork, relay: Relay) -> None:
        if relay.gas is None:
            raise Unavailable("the earlier transaction failed just now; try again")
        if self._budget is None:
            return
        since = self._clock() - RELAY_PERIOD
        for account, budget in ((relay.account, self._budget // ACCOUNT_SHARE), (None, self._budget)):
            found = tx.transactions.relayed(self._lane, since, account)
            if found.cost + (found.queued_gas + relay.gas) * relay.fee > budget:
                wait = RETRY_AFTER if found.first_at is None else found.first_at - since
                raise _spent(relay, account, budget, wait)


def _spent(relay: Relay, account: Account | None, budget: int, wait: timedelta) -> RelayBudgetSpent:
    who = "all accounts" if account is None else str(account)
    return RelayBudgetSpent(
        f"This operator pays {budget // GWEI:,} gwei in 24 hours for the gas of transactions that it sends "
        f"for {who}, and {relay.function} would exceed that. Try again later, or send the transaction from "
        "the account's own wallet, where the operator prepares it for that too.",
        details={"retry_after_seconds": max(math.ceil(wait.total_seconds()), 1)},
    )
