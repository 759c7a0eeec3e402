"""Parses receipt files, which have the format of `GET /v1/receipts/{id}` and are untrusted."""

from __future__ import annotations

from typing import Annotated

import msgspec

from backend.client.evidence import Documents, Evidence, parse_evidence
from backend.domain.disputes.witnesses import unpack_list
from backend.domain.errors import InvalidInput
from backend.domain.ids import Account, ChannelId, ChargeId, Hash32, ReceiptId, VersionId
from backend.domain.receipt import Receipt, SignedReceipt, Slice
from backend.domain.receipt_checks import ReceiptFile
from backend.domain.split import MAX_SLICES

_Hash = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{64}$")]
_Account = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{40}$")]
_Amount = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,38}$")]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class _Body(msgspec.Struct):
    channel_id: _Hash
    cumulative: _Amount
    charge: _Amount
    request_hash: _Hash
    response_hash: _Hash
    slices_hash: _Hash
    prompt_tokens: _Count
    completion_tokens: _Count
    attribution_hash: _Hash
    served_at: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Status(msgspec.Struct):
    status: str | None = None


class _Slice(msgspec.Struct):
    version_id: _Hash
    weight_ppm: _Count
    packed: Annotated[str, msgspec.Meta(pattern="^0x([0-9a-f]{16}){0,256}$")]


class _Charge(msgspec.Struct):
    id: _Hash
    receipt_by: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _File(msgspec.Struct):
    id: _Hash
    operator: _Account
    receipt: _Body
    method: Annotated[str, msgspec.Meta(pattern="^[!-~]{1,32}$")]
    slices: Annotated[list[_Slice], msgspec.Meta(min_length=1, max_length=MAX_SLICES)]
    signature: Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{130}$")]
    salt: _Hash | None = None
    signed_charge: _Charge | None = None
    evidence: Documents = msgspec.field(default_factory=Documents)


_DECODER = msgspec.json.Decoder(_File)


def parse_receipt(text: bytes) -> ReceiptFile:
    """Raises `InvalidInput`, which names the first missing or malformed field."""
    return _receipt(_decode(text))


def parse_with_evidence(text: bytes) -> tuple[ReceiptFile, Evidence]:
    """The receipt, and the market's documents about it, if the file has them. Errors: as `parse_receipt`."""
    found = _decode(text)
    return _receipt(found), parse_evidence(found.evidence)


def _decode(text: bytes) -> _File:
    try:
        if msgspec.json.decode(text, type=_Status).status == "pending":
            raise InvalidInput(
                "a charge whose receipt was not signed yet: run `loraledger receipts show --out` again",
                param="receipt",
            )
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not a receipt in the API's format: {error}", param="receipt") from error


def _receipt(found: _File) -> ReceiptFile:
    body = found.receipt
    receipt = Receipt(
        channel_id=ChannelId(Hash32(body.channel_id)),
        cumulative=int(body.cumulative),
        charge=int(body.charge),
        request_hash=Hash32(body.request_hash),
        response_hash=Hash32(body.response_hash),
        slices_hash=Hash32(body.slices_hash),
        prompt_tokens=body.prompt_tokens,
        completion_tokens=body.completion_tokens,
        attribution_hash=Hash32(body.attribution_hash),
        served_at=body.served_at,
    )
    slices = tuple(
        Slice(VersionId(Hash32(s.version_id)), s.weight_ppm, unpack_list(bytes.fromhex(s.packed[2:])))
        for s in found.slices
    )
    signed = SignedReceipt(receipt, found.method, slices, found.signature)
    salt = None if found.salt is None else Hash32(found.salt)
    stated = found.signed_charge
    charge = None if stated is None else (ChargeId(Hash32(stated.id)), stated.receipt_by)
    return ReceiptFile(ReceiptId(Hash32(found.id)), Account(found.operator), signed, salt, charge)
