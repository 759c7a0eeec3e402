"""Codec of `batch.jsonl`, the public data of a batch. Its form is canonical: equal batches are equal bytes.

Source: docs/protocol.md, "Batch".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from backend.domain.errors import InvalidInput
from backend.domain.hashing import pack_list
from backend.domain.ids import Account, Hash32, VersionId
from backend.domain.receipt import PackedShares, Receipt, SignedReceipt, Slice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FILE_NAME = "batch.jsonl"
FORMAT = "loraledger-batch-1"
MAX_LINE = 20_000
"""Longest line in bytes: four attribution lists of 256 items, and the other fields."""
MAX_BRACKETS = 64
"""Limit of brackets per line, above what a line has, because the JSON parser recurses on each."""
METHOD = re.compile(r"[\x21-\x7e]{1,32}")
HEX = re.compile(r"0x[0-9a-f]*")

T = TypeVar("T")

_FIELDS = {  # name in the file -> (name in Python, bits of an integer or None for a hash)
    "channelId": ("channel_id", None),
    "cumulative": ("cumulative", 128),
    "charge": ("charge", 128),
    "requestHash": ("request_hash", None),
    "responseHash": ("response_hash", None),
    "slicesHash": ("slices_hash", None),
    "promptTokens": ("prompt_tokens", 32),
    "completionTokens": ("completion_tokens", 32),
    "attributionHash": ("attribution_hash", None),
    "servedAt": ("served_at", 64),
}


class MalformedBatch(InvalidInput):
    """Batch data that is not in canonical form. `details["line"]` counts from 1."""


@dataclass(frozen=True, slots=True)
class BatchName:
    """The first line, which identifies the batch."""

    chain_id: int
    collector: Account
    operator: Account
    number: int


def encode(name: BatchName, receipts: Iterable[SignedReceipt]) -> bytes:
    """Bytes of the file. `receipts` are in the order of the receipts tree."""
    return b"".join([_name_line(name), *map(_receipt_line, receipts)])


def decode(data: bytes) -> tuple[BatchName, tuple[SignedReceipt, ...]]:
    """The inverse of `encode`. Errors: `MalformedBatch` for all other bytes."""
    return decode_chunks([data])


def decode_chunks(chunks: Iterable[bytes]) -> tuple[BatchName, tuple[SignedReceipt, ...]]:
    """`decode` of a file in chunks, of which it holds one at a time. Errors: as `decode`, and those of
    iterating.
    """
    lines = _lines(chunks)
    name = _parse(*next(lines, (1, b"")), _read_name, _name_line)
    return name, tuple(_parse(number, line, _read_receipt, _receipt_line) for number, line in lines)


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each line's number, from 1, and its bytes. Errors: `MalformedBatch`."""
    number, pending = 1, bytearray()
    for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield number, bytes(pending) + line + b"\n"
            pending.clear()
            number += 1
        pending += rest
        if len(pending) > MAX_LINE:
            yield number, bytes(pending)  # refused: lines are shorter
    if pending:
        raise MalformedBatch("the batch data does not end with a newline", "data", {"line": number})


def _name_line(name: BatchName) -> bytes:
    return _line(
        {
            "format": FORMAT,
            "chainId": str(name.chain_id),
            "collector": name.collector,
            "operator": name.operator,
            "number": str(name.number),
        }
    )


def _receipt_line(signed: SignedReceipt) -> bytes:
    fields: dict[str, Any] = {key: str(getattr(signed.receipt, ours)) for key, (ours, _) in _FIELDS.items()}
    fields["slices"] = [
        {
            "versionId": s.version_id,
            "weightPpm": str(s.weight_ppm),
            "list": "0x" + pack_list(s.shares).hex(),
        }
        for s in signed.slices
    ]
    return _line({**fields, "method": signed.method, "signature": signed.signature})


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _parse(number: int, line: bytes, read: Callable[[Any], T], write: Callable[[T], bytes]) -> T:
    """Parse a line. Errors: `MalformedBatch` unless it is in canonical form."""
    try:
        value = read(_json(line))
        if write(value) == line:
            return value
        reason = "not in canonical form"
    except KeyError as error:
        reason = f"{error} is missing"
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    raise MalformedBatch(f"line {number} of the batch data: {reason}", "data", {"line": number})


def _json(line: bytes) -> Any:
    if len(line) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} bytes")
    if line.count(b"[") + line.count(b"{") > MAX_BRACKETS:
        raise ValueError("too many brackets")
    return json.loads(line)


def _read_name(fields: dict[str, Any]) -> BatchName:
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']!r}, not {FORMAT!r}")
    collector, operator = (Account(_hex(fields[key], 20)) for key in ("collector", "operator"))
    return BatchName(_int(fields["chainId"], 256), collector, operator, _int(fields["number"], 64))


def _read_receipt(fields: dict[str, Any]) -> SignedReceipt:
    values: dict[str, Any] = {
        ours: _hex(fields[key], 32) if bits is None else _int(fields[key], bits)
        for key, (ours, bits) in _FIELDS.items()
    }
    method, signature = fields["method"], _hex(fields["signature"], 65)
    if not METHOD.fullmatch(method):
        raise ValueError(f"{method!r} is not a method name")
    return SignedReceipt(Receipt(**values), method, tuple(map(_read_slice, fields["slices"])), signature)


def _read_slice(fields: dict[str, Any]) -> Slice:
    shares = PackedShares(bytes.fromhex(fields["list"][2:]))
    return Slice(VersionId(Hash32(_hex(fields["versionId"], 32))), _int(fields["weightPpm"], 32), shares)


def _int(text: str, bits: int) -> int:
    value = int(text) if isinstance(text, str) else -1
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{text!r} is not a decimal uint{bits}")
    return value


def _hex(text: str, size: int) -> str:
    if len(text) != 2 + 2 * size or not HEX.fullmatch(text):
        raise ValueError(f"{text!r} is not {size} bytes in lower-case 0x-hex")
    return text
