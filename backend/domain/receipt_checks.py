"""Checks of a receipt that need nothing but the receipt, and for its content the payer's salt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.hashing import (
    attribution_hash,
    receipt_id,
    response_bytes,
    salted_hash,
    slices_hash,
    to_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account, Hash32, ReceiptId
    from backend.domain.receipt import SignedReceipt


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `is_right` is None if it cannot be decided here; the message then says what is missing."""

    name: str
    is_right: bool | None
    message: str


@dataclass(frozen=True, slots=True)
class ReceiptFile:
    """A receipt from a file. Nothing but its signature proves where it is from."""

    id: ReceiptId
    operator: Account
    signed: SignedReceipt
    salt: Hash32 | None = None


def hash_check(file: ReceiptFile) -> Check:
    """Check that the receipt has the hash that its id names."""
    return equality_check("hash", "the receipt's id", receipt_id(file.signed.receipt), file.id)


def slices_check(signed: SignedReceipt) -> Check:
    """Check that versions and shares are those that were signed."""
    receipt = signed.receipt
    if slices_hash(signed.slices) != receipt.slices_hash:
        return Check("slices", is_right=False, message="the versions are not those that were signed")
    if attribution_hash(signed.method, signed.slices) != receipt.attribution_hash:
        return Check("slices", is_right=False, message="the shares are not those that were signed")
    return Check("slices", is_right=True, message=f"{len(signed.slices)} versions, shares by {signed.method}")


def content_check(file: ReceiptFile, body: bytes, answers: Sequence[str]) -> Check:
    """Check that the receipt commits to this request and answer."""
    if file.salt is None:
        return Check("content", is_right=None, message="the receipt has no salt")
    salt, receipt = to_bytes(file.salt), file.signed.receipt
    wrong = [
        name
        for name, found, expected in (
            ("request", salted_hash(salt, body), receipt.request_hash),
            ("answer", salted_hash(salt, response_bytes(answers)), receipt.response_hash),
        )
        if found != expected
    ]
    text = (
        f"not the {' and not the '.join(wrong)} of this receipt"
        if wrong
        else "request and answer match the receipt"
    )
    return Check("content", not wrong, text)


def stated_content_check(file: ReceiptFile, body: bytes | None, answer: str | None) -> Check | None:
    """`content_check` of an answer with one choice; None if neither request nor answer is available.

    Errors: `InvalidInput` if only one is.
    """
    if body is None and answer is None:
        return None
    if body is None or answer is None:
        raise InvalidInput("pass both --request and --answer, or neither", param="request")
    return content_check(file, body, [answer])


def equality_check(name: str, what: str, computed: object, stated: object) -> Check:
    if computed == stated:
        return Check(name, is_right=True, message=f"{what} is {computed}")
    return Check(name, is_right=False, message=f"{what} is {computed}, not {stated}")
