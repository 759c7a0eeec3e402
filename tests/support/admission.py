"""Answers that are charged without an engine."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from backend.domain.hashing import slices_hash
from backend.domain.money import PPM
from backend.domain.receipt import Slice
from backend.services.channels.admission import Bill, Payer
from tests.support.market import some_hash

if TYPE_CHECKING:
    from backend.domain.serving import Reservation
    from tests.support.scripted_installation import ScriptedInstallation

NUMBERS = itertools.count()
"""Salts make each request's hash its own."""


def bill(installation: ScriptedInstallation, charge: int) -> Bill:
    slices = (Slice(installation.base_version, PPM, ()),)
    return Bill(
        charge=charge,
        request_hash=some_hash(f"request {next(NUMBERS)}"),
        response_hash=some_hash("response"),
        slices=slices,
        slices_hash=slices_hash(slices),
        method="none",
        attribution_hash=some_hash("attribution"),
        prompt_tokens=1,
        completion_tokens=1,
        salt=some_hash("salt"),
    )


def settle(installation: ScriptedInstallation, payer: Payer, reservation: Reservation, charge: int) -> int:
    """Cumulative of the receipt."""
    stored = installation.admission.charge(payer, reservation, bill(installation, charge))
    return stored.signed.receipt.cumulative


def available(installation: ScriptedInstallation) -> int:
    channel = installation.services.channels.get(installation.payer.account, installation.channel)
    return channel.balance.available
