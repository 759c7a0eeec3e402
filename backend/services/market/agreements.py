"""Reads the agreements that an adapter's attribution index states. The index is an untrusted file, of which
only the header is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.attribution import AGREEMENTS, NUM_KEPT_OUT
from backend.domain.catalogue import Agreement
from backend.domain.dataset import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_HEADER_BYTES = 64 << 10
MAX_ANSWERS = 1_000_000
_LENGTH_BYTES = 8


def read_agreement(chunks: Iterable[bytes]) -> Agreement | None:
    """The agreements of a safetensors file, given in chunks; None if it states none that make sense."""
    header = _header(chunks)
    try:
        return _agreement(parse_json(header.decode())["__metadata__"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return None


def _header(chunks: Iterable[bytes]) -> bytes:
    """The header, or a part of it if it is too long."""
    found = b""
    for chunk in chunks:
        found += chunk
        if len(found) >= _LENGTH_BYTES + MAX_HEADER_BYTES:
            break
    length = int.from_bytes(found[:_LENGTH_BYTES], "little")
    return found[_LENGTH_BYTES:][: min(length, MAX_HEADER_BYTES)]


def _agreement(metadata: Mapping[str, Any]) -> Agreement | None:
    """Errors: `ValueError`, `LookupError`, `TypeError`, `AttributeError` or `OverflowError` (an infinite or
    huge number) for malformed metadata.
    """
    methods = metadata["methods"].split()
    stated = {method: float(metadata[name]) for method, name in AGREEMENTS.items() if method in methods}
    num_answers = int(metadata[NUM_KEPT_OUT])
    is_possible = all(-1 <= value <= 1 for value in stated.values()) and 0 < num_answers <= MAX_ANSWERS
    return Agreement(stated, num_answers) if stated and is_possible else None
