"""What must hold after each fault."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.cli.operator.demo.reconciliation import funds, reconcile
from backend.domain.errors import DomainError
from backend.installation.local_network import well_known_accounts
from backend.installation.resources import utc_now
from tools.chaos.errors import ChaosError

if TYPE_CHECKING:
    from backend.domain.figures import Figures
    from backend.domain.ids import Account
    from backend.installation.installation import Installation
    from tools.chaos.market import ChaosMarket
    from tools.chaos.traffic import Traffic

SETTLE_SECONDS = 600.0
"""Patience, no promise: on a busy machine the chain itself is slow."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the operator has stored: receipts, their charges in micro-units, and receipts of training."""

    receipts: int
    charged: int
    jobs: int


def token_funds(market: ChaosMarket) -> dict[Account, int]:
    """Token balances of the local network's accounts."""
    with closing(market.installation()) as installation:
        return funds(installation.chain, [each.account for each in well_known_accounts()])


def seconds_until_served(traffic: Traffic, key: str, limit: float, since: float | None = None) -> float:
    """Time until an answer comes, from now or `since`. Errors: `ChaosError` after `limit`."""
    began = since or time.monotonic()
    while not traffic.ask(key):
        if time.monotonic() - began > limit:
            raise ChaosError(f"no answer within {limit:g} s after the fault")
        time.sleep(0.2)
    taken = time.monotonic() - began
    if taken > limit:
        raise ChaosError(f"the first answer came {taken:.1f} s after the fault, later than {limit:g} s")
    return taken


def settle(market: ChaosMarket) -> Ledger:
    """Wait, without traffic, until every receipt is in a final batch. Reservations of answers that a killed
    API was making may still be there: they expire. Errors: `ChaosError`.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    reason, head = "the database does not answer", None
    while time.monotonic() < deadline:
        try:
            with closing(market.installation()) as installation:
                with installation.database.read() as tx:
                    figures = tx.figures(installation.operator.account, utc_now())
                    indexed = tx.chain.cursor()
                pending = _pending(figures)
                if any(pending.values()):
                    head = None
                elif head is None:
                    # A batch may be on the chain, its transaction known, and its event not indexed yet.
                    head = installation.chain.head().number
                elif indexed is not None and indexed.number >= head:
                    charges = _charges(installation)
                    trained = _charges(installation, market.jobs.account)
                    return Ledger(len(charges), sum(charges.values()), len(trained))
                reason = ", ".join(f"{count} {what}" for what, count in pending.items())
        except DomainError as error:
            reason = str(error)
        time.sleep(1)
    raise ChaosError(f"not settled after {SETTLE_SECONDS:g} s: {reason}")


def _pending(figures: Figures) -> dict[str, int]:
    """What may still move money. A batch whose commit is queued has its receipts and is not on the chain."""
    return {
        "receipts in no batch": figures.unsettled.count,
        "batches not final": figures.open_batches,
        "messages in the outbox": figures.outbox.count,
        "transactions": sum(each.count for each in figures.transactions.values()),
    }


def check_money(market: ChaosMarket, traffic: Traffic, ledger: Ledger, before: dict[Account, int]) -> None:
    """No receipt is lost or paid twice, and balances equal the chain's. Errors: `ChaosError`."""
    with closing(market.installation()) as installation:
        _check_bills(installation, traffic)
        if ledger.jobs != market.jobs.num_succeeded:
            raise ChaosError(f"{market.jobs.num_succeeded} jobs succeeded, and {ledger.jobs} were paid")
        found = reconcile(installation, market.channels, before)
        if not found.is_balanced:
            raise ChaosError(f"the accounts do not balance: {found}")
        if found.collected != ledger.charged:
            raise ChaosError(
                f"receipts charge {ledger.charged} micro-units, the chain collected {found.collected}"
            )


def _charges(installation: Installation, payer: Account | None = None) -> dict[str, int]:
    """Charge of each stored receipt, or of those of one payer, by its id."""
    with installation.database.engine.connect() as connection:
        rows = connection.execute(text("SELECT id, charge, payer FROM receipts"))
        return {str(number): int(charge) for number, charge, by in rows if payer in (None, by)}


def _check_bills(installation: Installation, traffic: Traffic) -> None:
    """Every answer that a client got whole has a receipt of its own with the charge of the bill."""
    bills = {answer.receipt_id: answer.charge for answer in traffic.bills}
    if len(bills) < len(traffic.bills):
        raise ChaosError("two answers have one receipt")
    stored = _charges(installation)
    lost = [number for number, charge in bills.items() if stored.get(number) != charge]
    if lost:
        raise ChaosError(f"{len(lost)} answers have lost their receipts, such as {lost[0]}")
