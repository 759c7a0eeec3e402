"""The API without reservations and receipts: `uvicorn --factory benchmarks.ledger.bare:create`.

Everything else is as in `loraledger serve`, so that the difference is the cost of receipts.
"""

from __future__ import annotations

import secrets
from functools import cached_property
from typing import TYPE_CHECKING, cast

from backend.api.app import create_app
from backend.app import freeze_heap
from backend.domain.ids import ZERO_HASH, ReceiptId
from backend.domain.receipt import SignedReceipt
from backend.domain.serving import NewReceipt, Reservation
from backend.installation.api_services import api_services
from backend.installation.installation import Installation
from backend.installation.resources import utc_now
from backend.services.channels.admission import build_receipt
from backend.settings import load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from backend.services.channels.admission import Admission, Bill, Counterparty, Payer

UNSIGNED = "0x" + "00" * 65


class NoLedger:
    """Replaces `backend.services.channels.admission.Admission` without using a database or a key."""

    def __init__(self, counterparty: Counterparty) -> None:
        self._counterparty = counterparty

    async def check(self, payer: Payer, amount: int) -> None:
        """Admit every payer."""

    async def reserve(self, payer: Payer, amount: int) -> Reservation:
        channel = self._counterparty.channel(payer.account)
        return Reservation(secrets.token_hex(16), channel, payer.key_id, amount, utc_now())

    async def release(self, reservation: Reservation) -> None:
        """Do nothing: nothing was reserved."""

    async def charge(self, payer: Payer, reservation: Reservation, bill: Bill) -> NewReceipt:
        receipt = build_receipt(reservation.channel_id, bill.charge, bill, served_at=0)
        signed = SignedReceipt(receipt, bill.method, bill.slices, UNSIGNED)
        operator = self._counterparty.operator
        number, account = ReceiptId(ZERO_HASH), payer.account
        return NewReceipt(number, operator, account, signed, operator, bill.salt, payer.key_id)


class InstallationWithoutLedger(Installation):
    @cached_property
    def admission(self) -> Admission:
        return cast("Admission", NoLedger(self.counterparty))


def create() -> FastAPI:
    settings = load_settings()
    app = create_app(api_services(InstallationWithoutLedger(settings)), settings)
    freeze_heap()
    return app
