"""Fetches receipts, and waits for those that follow their charges."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from backend.client.errors import NotAMarket, reading_answer
from backend.client.receipt_file import parse_receipt
from backend.domain.errors import Unavailable
from backend.domain.ids import ChargeId, Hash32
from backend.domain.receipt_checks import charge_id_check, hash_check
from backend.domain.texts import instant

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.client.api import PublicClient

POLL_SECONDS = 1.0
GRACE_SECONDS = 30
"""After a receipt is due, settlement signs it within this time."""


def fetch_receipt(client: PublicClient, number: str, say: Callable[[str], None]) -> dict[str, Any]:
    """`GET /v1/receipts/{number}`, by a receipt's id or its charge's. `say` is called once if it waits.

    Errors: `Unavailable` if the receipt is overdue; `NotAMarket` if it is another one than that of `number`.
    """
    is_said = False
    while (due := _due(found := client.get(f"/v1/receipts/{number}"))) is not None:
        if time.time() > due + GRACE_SECONDS:
            raise Unavailable(
                f"The receipt of charge {number} was due at {instant(due)} and is not signed: the operator's "
                "settlement does not run. The signed charge proves what was paid."
            )
        if not is_said:
            say(f"the receipt of charge {number} is signed by {instant(due)}; waiting")
            is_said = True
        time.sleep(POLL_SECONDS)
    if not _is_of(found, number.lower()):
        raise NotAMarket(f"{client.api_url} answers with another receipt than that of {number}")
    return dict(found)


@reading_answer()
def _is_of(found: Any, number: str) -> bool:
    """Whether the fields of a receipt have the id `number`, or those of the charge that it followed."""
    file = parse_receipt(json.dumps(found).encode())
    check = hash_check(file) if file.id == number else charge_id_check(file, ChargeId(Hash32(number)))
    return check is not None and check.is_right is True


def _due(found: Any) -> int | None:
    """When a pending receipt is signed at the latest; None for a receipt."""
    with reading_answer():
        if found.get("status") != "pending":
            return None
        due = int(found["signed"]["receipt_by"])
        time.gmtime(due)
        return due
