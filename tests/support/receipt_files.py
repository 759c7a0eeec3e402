"""Receipts as the API returns them to their payer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from backend.api.schemas.receipts import ReceiptDetail
from backend.domain.hashing import charge_id, receipt_id
from backend.domain.receipt import Charge
from backend.domain.serving import StoredReceipt
from backend.services.receipts.receipts import NamedShare, NamedSlice, ReceiptView
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.domain.receipt import SignedReceipt


def receipt_file(signed: SignedReceipt) -> dict[str, Any]:
    payer = some_account("payer")
    stored = StoredReceipt(
        1, receipt_id(signed.receipt), some_account("operator"), payer, signed, some_hash("salt"), None, None
    )
    slices = tuple(
        NamedSlice(s.version_id, s.weight_ppm, tuple(NamedShare(share, None, None) for share in s.shares))
        for s in signed.slices
    )
    shown = ReceiptDetail.for_viewer(ReceiptView(stored, slices, None), payer)
    found: dict[str, Any] = json.loads(shown.model_dump_json())
    return found


def following_a_charge(signed: SignedReceipt) -> dict[str, Any]:
    """As `receipt_file`, of a receipt that followed a charge."""
    values = {name: getattr(signed.receipt, name) for name in Charge.__slots__ if name != "receipt_by"}
    charge = Charge(**values, receipt_by=signed.receipt.served_at + 60)
    stated = {"id": charge_id(charge), "receipt_by": charge.receipt_by, "signature": "0x"}
    return receipt_file(signed) | {"signed_charge": stated}
