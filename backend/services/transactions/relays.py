"""Transactions that the operator sends, and pays the gas of, for accounts that sign or ask for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.errors import DomainError, Unavailable
from backend.domain.money import GWEI
from backend.domain.transactions import RELAY_PERIOD, SIGNED_CALL_GAS_CAP
from backend.services.transactions.retry import newest_attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account
    from backend.ports.chain import Chain

PUBLIC_BUDGET = 100_000_000
"""Gwei, of installations that set no budget, except on the local network."""
ACCOUNT_SHARE = 10
"""One account may use a tenth of the budget."""


class RelayBudgetSpent(DomainError):
    """The operator relays no more transactions for now; the account's own wallet can send most of them."""


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
    gas_price: int
    """Wei."""


class Relays:
    """Relayed transactions may cost `budget` gwei in 24 hours: their gas limits at the present price of gas.
    None: no limit. `lane` is the operator's account that sends them.
    """

    def __init__(
        self, db: Database, chain: Chain, lane: Account, budget: int | None, clock: Callable[[], datetime]
    ) -> None:
        self._db, self._chain, self._lane = db, chain, lane
        self._budget = None if budget is None else budget * GWEI
        self._clock = clock

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
        *,
        is_simulated: bool = True,
    ) -> Relay:
        """Without simulation, for a call that depends on another one that is queued, its gas counts as the
        most that it may have.

        Errors: `Reverted` if the call would fail; the operator would pay for that.
        """
        with self._db.read() as tx:
            _, known = newest_attempt(tx, key, None)
        gas = None
        if known is None and is_simulated:
            gas = self._chain.prepare(*call, *args, sender=self._lane).gas or 0
        elif known is None:
            gas = SIGNED_CALL_GAS_CAP
        return Relay(account, *call, args, key, gas, self._chain.gas_price())

    def queue(self, tx: UnitOfWork, relay: Relay) -> int:
        """Queue a prepared relay; returns the id of its transaction, which is an earlier one's while that has
        not failed.

        Errors: `RelayBudgetSpent`; `Conflict` if the key stands for another call.
        """
        tx.transactions.lock_lane(self._lane)  # else concurrent relays could together exceed the budget
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
            gas, first_at = tx.transactions.relayed(self._lane, since, account)
            if (gas + relay.gas) * relay.gas_price > budget:
                who = "all accounts" if account is None else str(account)
                wait = RELAY_PERIOD if first_at is None else first_at - since
                raise RelayBudgetSpent(
                    f"The gas of transactions that are relayed for {who} may cost {budget // GWEI:,} gwei in "
                    "24 hours, and this one would exceed that: send it with the account's own wallet, or try "
                    "again later.",
                    details={"retry_after_seconds": max(math.ceil(wait.total_seconds()), 1)},
                )
