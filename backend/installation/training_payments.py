"""Wires how training is paid. Like `bootstrap`, a composition root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.training_payment import training_record
from backend.services.train.payments import Payments

if TYPE_CHECKING:
    from backend.domain.receipt import VersionRecord
    from backend.installation.installation import Installation


def payments_of(installation: Installation) -> Payments:
    """The receipt key is not opened before there is something to sign."""
    record, max_lag = record_of(installation), installation.settings.max_lag_seconds
    return Payments(installation.market, record, lambda: installation.receipt_key, max_lag)


def record_of(installation: Installation) -> VersionRecord | None:
    """What this installation sells training by; None where it is free."""
    price = installation.settings.training_price
    if not price:
        return None
    return training_record(installation.operator.account, installation.base.digest, price)
