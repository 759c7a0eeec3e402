"""Strict JSON parser for untrusted input: rejects ambiguous documents, and bounds the work of parsing."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

# An unterminated string matches too, else a crafted one would be scanned from each of its quotes again.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def parse_object(text: bytes, max_depth: int) -> dict[str, Any]:
    """Parse `text`, UTF-8, as a JSON object. The caller limits its size.

    Raises `ValueError` for what two parsers could interpret differently: duplicate keys, another encoding,
    numbers that are not finite.
    """
    decoded = text.decode()
    if _depth(decoded) > max_depth:
        raise ValueError(f"nested deeper than {max_depth} levels")
    value = json.loads(
        decoded,
        object_pairs_hook=_without_duplicates,
        parse_constant=_refuse_constant,
        parse_float=_finite,
    )
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  # of the text, not of an argument
    return value


def canonical(value: dict[str, Any]) -> bytes:
    """Serialise with sorted keys, no blanks, in UTF-8. Raises `ValueError` for text that UTF-8 cannot
    encode.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _depth(text: str) -> int:
    """Nesting depth of brackets outside strings. Python's parser is recursive and can overflow the stack."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {key[:100]!r} is given twice")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is larger than any double")
    return number
