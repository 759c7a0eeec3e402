"""Checks of a receipt by what is at hand, be it an index of the chain or documents of a market."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.batch import spans_hash
from backend.domain.disputes.receipt_rules import is_misplaced
from backend.domain.errors import InvalidInput
from backend.domain.hashing import (
    attribution_hash,
    charge_id,
    receipt_id,
    response_bytes,
    salted_hash,
    slices_hash,
    to_bytes,
    to_hash,
)
from backend.domain.merkle import RECEIPTS_TAG, resolve
from backend.domain.money import in_dollars
from backend.domain.receipt import Charge
from backend.domain.rules import BadReceipt, Rules
from backend.domain.split import slice_charges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.batch import Header, Span
    from backend.domain.ids import Account, ChargeId, Hash32, ReceiptId
    from backend.domain.merkle import Opening
    from backend.domain.receipt import Receipt, SignedReceipt
    from backend.domain.rules import Registry


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
    charge: tuple[ChargeId, int] | None = None
    """Id and `receipt_by` of the charge that it followed."""


def charge_id_check(file: ReceiptFile, got: ChargeId | None = None) -> Check | None:
    """Check that the receipt is that of the charge `got`, whose id the payer got with the answer.

    Without it, of the charge that the file itself states; None if it states none.
    """
    if file.charge is None:
        message = f"the file states no charge, and so does not show that it is the receipt of {got}"
        return None if got is None else Check("charged", is_right=False, message=message)
    stated, receipt_by = file.charge
    shared = {name: getattr(file.signed.receipt, name) for name in Charge.__slots__ if name != "receipt_by"}
    computed = charge_id(Charge(**shared, receipt_by=receipt_by))
    return equality_check("charged", "the id of its charge", computed, got or stated)


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
    count = len(signed.slices)
    versions = "1 version" if count == 1 else f"{count} versions"
    return Check("slices", is_right=True, message=f"{versions}, shares by {signed.method}")


def charge_check(registry: Registry, signed: SignedReceipt) -> Check:
    """Check that the charge is tokens times the versions' prices, and that the shares are well-formed.

    Open if `registry` has no record of a version.
    """
    receipt = signed.receipt
    records = [registry.version(part.version_id) for part in signed.slices]
    missing = [part.version_id for part, record in zip(signed.slices, records, strict=True) if record is None]
    if missing:
        return Check("charge", is_right=None, message=f"there is no record of version {missing[0]} here")
    known = [record for record in records if record is not None]
    counts = f"{receipt.prompt_tokens} + {receipt.completion_tokens} tokens"
    if receipt.charge == 0:
        charges = slice_charges(signed.slices, known, receipt.prompt_tokens, receipt.completion_tokens)
        return equality_check("charge", f"{counts} in micro-units", sum(charges), 0)
    try:
        Rules(registry).charges(signed)
    except BadReceipt as error:
        return Check("charge", is_right=False, message=error.message)
    message = f"{counts} are {in_dollars(receipt.charge)} at the versions' prices"
    return Check("charge", is_right=True, message=message)


def other_slices_check() -> Check:
    """The result of `charge_check` if `slices_check` is wrong."""
    return Check("charge", is_right=None, message="the file does not have the slices that were charged")


def retired_key_check(message: str, *, is_before: bool) -> Check:
    """The signature's check if its key is retired. `is_before`: its batch was committed before."""
    if is_before:
        return Check("signature", is_right=True, message=f"{message}, retired after its batch")
    text = (
        "retired, so that anyone may have signed since: request the receipt again for the next key's "
        "signature (one without a charge is in no batch, and not signed again)"
    )
    return Check("signature", is_right=None, message=f"{message}, {text}")


def is_in_place(receipt: Receipt, header: Header, spans: Sequence[Span], opening: Opening) -> bool:
    """Whether the opening and the batch's spans prove the receipt's place. Errors: `InvalidOpening`."""
    opened = resolve(RECEIPTS_TAG, to_bytes(receipt_id(receipt)), header.receipts_count, opening)
    return (
        to_hash(opened.root) == header.receipts_root
        and opened.total == header.total
        and spans_hash(spans) == header.spans_hash
        and not is_misplaced(receipt, spans, opened.prefix)
    )


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
