"""What must hold after each fault."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from backend.cli.operator.demo.reconciliation import funds, reconcile
from backend.domain.errors import DomainError
from backend.domain.ids import ChannelId, Hash32
from backend.domain.money import UNIT, in_dollars
from backend.installation.local_network import well_known_accounts
from backend.installation.resources import utc_now
from backend.services.accounts.claims import MIN_RELAYED_UNITS
from tools.chaos.errors import ChaosError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backend.cli.operator.demo.questions import Answer
    from backend.cli.operator.demo.reconciliation import Reconciliation
    from backend.domain.figures import Figures
    from backend.domain.ids import Account
    from backend.installation.installation import Installation
    from tools.chaos.faults import Fault
    from tools.chaos.market import ChaosMarket
    from tools.chaos.traffic import Traffic

SETTLE_SECONDS = 600.0
"""Patience, no promise: on a busy machine the chain itself is slow."""


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """A receipt as the operator has stored it; amounts in micro-units. `cumulative`: its channel's by it."""

    id: str | None
    payer: str
    channel_id: str
    cumulative: int
    charge: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What the operator has stored, in the order of the charges. `jobs`: receipts of training."""

    stored: Sequence[StoredReceipt]
    jobs: int

    @property
    def receipts(self) -> int:
        return len(self.stored)

    @property
    def charged(self) -> int:
        """In micro-units."""
        return sum(each.charge for each in self.stored)


def token_funds(market: ChaosMarket) -> dict[Account, int]:
    """Token balances of the local network's accounts."""
    with closing(market.installation()) as installation:
        return funds(installation.chain, [each.account for each in well_known_accounts()])


def seconds_until_served(
    traffic: Traffic, key: str, limit: float, check: Callable[[], None], since: float
) -> float:
    """Time from `since` until each model has answered. Errors: `ChaosError` after `limit`, and those of
    `check`, by which an answer can still come.
    """
    for model in traffic.models:
        while not traffic.ask(key, model):
            check()
            if time.monotonic() - since > limit:
                raise ChaosError(f"no answer of {model} within {limit:g} s after the fault")
            time.sleep(0.2)
    taken = time.monotonic() - since
    if taken > limit:
        raise ChaosError(f"the first answers came {taken:.1f} s after the fault, later than {limit:g} s")
    return taken


def seconds_until_ready(market: ChaosMarket, killed: Mapping[str, int], limit: float, since: float) -> float:
    """Time from `since` until all of these processes, ids by name, have successors that are ready.

    Errors: `ChaosError` after `limit`.
    """
    for name, pid in killed.items():
        while not market.has_ready_successor(name, pid):
            if time.monotonic() - since > limit:
                raise ChaosError(f"{name} is not ready {limit:g} s after it was killed")
            time.sleep(0.1)
    return time.monotonic() - since


def settle(market: ChaosMarket) -> Totals:
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
                    stored = _stored_receipts(installation)
                    return Totals(stored, sum(each.payer == market.jobs.account for each in stored))
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


def check_money(
    market: ChaosMarket,
    bills: Sequence[Answer],
    totals: Totals,
    before: dict[Account, int],
    earners: Sequence[Account],
) -> int:
    """No receipt is lost or paid twice, balances equal the chain's, and `earners`, who have claimed, are
    paid. `bills`: of the answers. Returns what the earners have received, in micro-units.

    Errors: `ChaosError`.
    """
    with closing(market.installation()) as installation:
        check_bills(totals.stored, [*bills, *market.jobs.bills])
        if totals.jobs != len(market.jobs.bills):
            raise ChaosError(f"{len(market.jobs.bills)} jobs succeeded, and {totals.jobs} were paid")
        collected = {
            channel: int(installation.chain.call("PaymentVault", "channelOf", channel)["collected"])
            for channel in market.channels
        }
        check_intervals(totals.stored, collected)
        found = reconcile(installation, market.channels, before)
        if not found.is_balanced:
            raise ChaosError(f"the accounts do not balance: {found}")
    check_earnings(found, earners)
    return sum(found.received[each] for each in earners)


def check_earnings(found: Reconciliation, earners: Sequence[Account]) -> None:
    """Each earner has received what final receipts attribute to it, up to an amount that no claim is relayed
    for. Errors: `ChaosError`.
    """
    for account in earners:
        credited, received = found.credited.get(account, 0), found.received.get(account, 0)
        if not 0 < received <= credited < received + MIN_RELAYED_UNITS * UNIT:
            raise ChaosError(
                f"final receipts attribute {in_dollars(credited)} to {account}, which claimed and received "
                f"{in_dollars(received)}"
            )


def _stored_receipts(installation: Installation) -> list[StoredReceipt]:
    with installation.database.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT id, payer, channel_id, cumulative, charge FROM receipts ORDER BY sequence")
        )
        return [
            StoredReceipt(number, payer, channel, int(cumulative), int(charge))
            for number, payer, channel, cumulative, charge in rows
        ]


def check_intervals(stored: Sequence[StoredReceipt], collected: Mapping[ChannelId, int]) -> None:
    """The receipts of each channel follow each other without a gap or an overlap, up to what the chain has
    collected from it: each is paid exactly once. Errors: `ChaosError`.
    """
    ends: dict[str, int] = dict.fromkeys(collected, 0)
    for each in stored:
        begin = ends.get(each.channel_id, 0)
        if each.cumulative != begin + each.charge:
            raise ChaosError(
                f"receipt {each.id} of {each.charge} micro-units ends at {each.cumulative} of channel "
                f"{each.channel_id}, after one that ends at {begin}"
            )
        ends[each.channel_id] = each.cumulative
    for channel, end in ends.items():
        paid = collected.get(ChannelId(Hash32(channel)), 0)
        if paid != end:
            raise ChaosError(
                f"receipts of channel {channel} charge {end} micro-units, and the chain collected {paid}"
            )


def charged_failures(market: ChaosMarket, bills: Sequence[Answer]) -> int:
    """Receipts of answers, those of training left out, for which no client got a bill."""
    query = text("SELECT count(*) FROM receipts WHERE payer <> :creator")
    with closing(market.installation()) as installation, installation.database.engine.connect() as connection:
        return int(connection.execute(query, {"creator": market.jobs.account}).scalar_one()) - len(bills)


def check_charged_failures(fault: Fault, charged: int, failed: int) -> None:
    """Of `failed` requests the API charged only those whose bills it could not deliver: clients ask nothing
    twice, so a receipt more is of an answer that was charged twice. Errors: `ChaosError`.
    """
    most = failed if fault.loses_bills else 0
    if charged > most:
        raise ChaosError(
            f"{charged} receipts are of no answer that a client got, and of {failed} failed requests at most "
            f"{most} may be charged"
        )


def check_bills(receipts: Sequence[StoredReceipt], bills: Sequence[Answer]) -> None:
    """Every answer that a client got whole has a receipt of its own with the charge of the bill.

    Errors: `ChaosError`.
    """
    charges = {answer.receipt_id: answer.charge for answer in bills}
    if len(charges) < len(bills):
        raise ChaosError("two answers have one receipt")
    stored = {each.id: each.charge for each in receipts}
    lost = [number for number, charge in charges.items() if stored.get(number) != charge]
    if lost:
        raise ChaosError(f"{len(lost)} answers have lost their receipts, such as {lost[0]}")
