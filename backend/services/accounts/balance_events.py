"""Queues webhook events for amounts that crossed what an endpoint's owner set: low balances, and earnings.

Balances change by answers, blocks and the clock, so they are compared periodically, not with each charge.
What was reported to an endpoint is stored with the event in one transaction, so each crossing is reported
once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backend.domain.money import AMOUNT, UNIT
from backend.domain.webhooks import EventType
from backend.services.accounts.claims import claimed
from backend.services.audit.auditor import ledger_of, newest_final
from backend.services.channels.balance import channel_balances
from backend.services.webhooks.events import emit_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.webhooks import WebhookEndpoint
    from backend.services.channels.admission import Counterparty

CHANNELS_AT_ONCE = 500


class BalanceEvents:
    """Channels with this operator and earnings from it: of these the installation has every figure."""

    def __init__(self, db: Database, counterparty: Counterparty, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._counterparty = counterparty
        self._clock = clock
        self._compared: object = None
        """Final batch and endpoints of the last comparison of earnings, which need not be repeated."""

    def sweep(self) -> None:
        """Compare all endpoints' amounts. Idempotent; any number of processes may call it."""
        with self._db.read() as tx:
            endpoints = tx.webhooks.with_low_balance()
            crossed = [
                found
                for first in range(0, len(endpoints), CHANNELS_AT_ONCE)
                for found in self._crossed(tx, endpoints[first : first + CHANNELS_AT_ONCE])
            ]
            earned, compared = self._earned(tx)
        for endpoint, available in crossed:
            self._report_balance(endpoint, available)
        for endpoint, cumulative in earned:
            self._report_earnings(endpoint, cumulative)
        self._compared = compared

    def _crossed(
        self, tx: UnitOfWork, endpoints: Sequence[WebhookEndpoint]
    ) -> list[tuple[WebhookEndpoint, int]]:
        """Endpoints whose balance is on the other side of `low_balance` now, with what is available.

        Reservations of running answers do not count: most of them are released. An account without a channel
        has no balance to be low.
        """
        channels = {endpoint.id: self._counterparty.channel(endpoint.account) for endpoint in endpoints}
        known = tx.chain.known_channels(set(channels.values()))
        balances = channel_balances(tx, known, {}, tx.chain.cursor(), self._clock())
        return [
            (endpoint, balances[channels[endpoint.id]].available)
            for endpoint in endpoints
            if channels[endpoint.id] in known
            and _is_low(endpoint, balances[channels[endpoint.id]].available) != endpoint.is_low
        ]

    def _report_balance(self, compared: WebhookEndpoint, available: int) -> None:
        with self._db.begin() as tx:
            endpoint = tx.webhooks.locked(compared.id)
            if endpoint is None or not endpoint.is_enabled or endpoint.low_balance is None:
                return
            is_low = _is_low(endpoint, available)
            if is_low == endpoint.is_low:
                return
            tx.webhooks.save(replace(endpoint, is_low=is_low))
            if is_low:
                data = {
                    "id": self._counterparty.channel(endpoint.account),
                    "available": AMOUNT.render(available),
                    "low_balance": AMOUNT.render(endpoint.low_balance),
                }
                emit_to(tx, [endpoint], EventType.BALANCE_LOW, data, self._clock())

    def _earned(self, tx: UnitOfWork) -> tuple[list[tuple[WebhookEndpoint, int]], object]:
        """Endpoints whose account may have earned enough since the last event, with cumulative earnings; and
        what was compared.
        """
        endpoints = tx.webhooks.with_min_earnings()
        if not endpoints:
            return [], None
        compared = (tx.chain.finalised(self._counterparty.operator), endpoints)
        if compared == self._compared:
            return [], compared
        ledger = ledger_of(tx, newest_final(tx, self._counterparty.operator))
        earned = [(endpoint, ledger.balances.get(endpoint.account, 0)) for endpoint in endpoints]
        due = [(endpoint, cumulative) for endpoint, cumulative in earned if _is_due(endpoint, cumulative, 0)]
        return due, compared if ledger.number == compared[0] else None

    def _report_earnings(self, compared: WebhookEndpoint, cumulative: int) -> None:
        operator = self._counterparty.operator
        with self._db.begin() as tx:
            endpoint = tx.webhooks.locked(compared.id)
            paid = claimed(tx, operator, compared.account)
            if endpoint is None or not endpoint.is_enabled or not _is_due(endpoint, cumulative, paid):
                return
            tx.webhooks.save(replace(endpoint, reported_earnings=cumulative))
            data = {
                "account": endpoint.account,
                "operator": operator,
                "claimable": AMOUNT.render((cumulative - paid) // UNIT * UNIT),
                "cumulative": AMOUNT.render(cumulative),
            }
            emit_to(tx, [endpoint], EventType.EARNINGS_CLAIMABLE, data, self._clock())


def _is_low(endpoint: WebhookEndpoint, available: int) -> bool:
    return endpoint.low_balance is not None and available < endpoint.low_balance


def _is_due(endpoint: WebhookEndpoint, cumulative: int, paid: int) -> bool:
    """Whether at least `min_earnings` became claimable since the last event, and was not claimed."""
    if endpoint.min_earnings is None:
        return False
    return cumulative - max(endpoint.reported_earnings, paid) >= max(endpoint.min_earnings, UNIT)
