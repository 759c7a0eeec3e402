"""Compares what a market proposes with what was asked for.

Fields that only the market can know are marked as `Chosen`; every other difference is refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.domain.errors import Forbidden

MAX_VALIDITY_SECONDS = 86_400
"""Longest validity of a signature that the market may choose."""
MAX_UINT256 = (1 << 256) - 1
_MAX_DIGITS = len(str(MAX_UINT256))


class SignatureRefused(Forbidden):
    """What the market proposes is not what was asked for. Nothing was signed."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A value that the market chooses. It is shown if it has a label.

    `most`: upper limit of an integer. `fixed`: fields of a struct that the market does not choose.
    """

    label: str = ""
    most: int | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)


NONCE = Chosen("nonce", most=MAX_UINT256)
"""A number that makes a signature valid once; the contract accepts only the next one. A later one becomes
valid when those before it are used.
"""


def deadline() -> Chosen:
    return Chosen(most=int(time.time()) + MAX_VALIDITY_SECONDS)


def agreed_message(asked: Mapping[str, Any], proposed: Any) -> Mapping[str, Any]:
    """The fields to sign, as of `agreed_value`: those that the market chooses are strings or integers, as
    JSON has the atomic types of EIP-712. Errors: `SignatureRefused`.
    """
    fields: Mapping[str, Any] = agreed_value(asked, proposed, "message")
    for name, value in asked.items():
        if isinstance(value, Chosen) and not isinstance(fields[name], str | int):
            raise SignatureRefused(f"message.{name} of the market is malformed; nothing was signed")
    return fields


def agreed_value(asked: Any, proposed: Any, where: str) -> Any:
    """The value to sign: the asked one, with what the market may choose taken from its proposal.

    Errors: `SignatureRefused` for the first difference.
    """
    if isinstance(asked, Chosen):
        return _chosen(asked, proposed, where)
    if isinstance(asked, Mapping):
        found = as_struct(proposed, where)
        if found.keys() != asked.keys():
            raise _difference(where, sorted(asked), sorted(map(str, found)))
        return {name: agreed_value(value, found[name], f"{where}.{name}") for name, value in asked.items()}
    if isinstance(asked, list):
        if not isinstance(proposed, list) or len(proposed) != len(asked):
            raise _difference(where, asked, proposed)
        pairs = enumerate(zip(asked, proposed, strict=True))
        return [agreed_value(one, other, f"{where}[{i}]") for i, (one, other) in pairs]
    if _plain(asked) != _plain(proposed):
        raise _difference(where, asked, proposed)
    return asked


def has_chosen(value: Any) -> bool:
    """Whether the market chooses a part of the value."""
    if isinstance(value, Mapping):
        return any(map(has_chosen, value.values()))
    return isinstance(value, Chosen) or (isinstance(value, list) and any(map(has_chosen, value)))


def _chosen(chosen: Chosen, proposed: Any, where: str) -> Any:
    if chosen.fixed:
        found = as_struct(proposed, where)
        stated = {name: found.get(name) for name in chosen.fixed}
        return {**found, **agreed_value(chosen.fixed, stated, where)}
    if chosen.most is None:
        return proposed
    text = str(proposed)
    # Numbers of thousands of digits cannot be parsed.
    if not text.isdecimal() or len(text) > _MAX_DIGITS or int(text) > chosen.most:
        raise _difference(where, f"at most {chosen.most}", proposed)
    return int(text)


def chosen_terms(asked: Mapping[str, Any], agreed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labelled values that the market chose, nested ones included."""
    found: list[tuple[str, str]] = []
    for name, value in asked.items():
        if isinstance(value, Chosen) and value.label:
            chosen = agreed[name]
            text = ", ".join(map(str, chosen)) or "none" if isinstance(chosen, list) else str(chosen)
            found.append((value.label, text))
        elif isinstance(value, Mapping):
            found += chosen_terms(value, agreed[name])
    return found


def as_struct(value: Any, where: str) -> Mapping[str, Any]:
    """The value if it is a JSON object. Errors: `SignatureRefused`."""
    if not isinstance(value, Mapping):
        raise SignatureRefused(f"{where} of the market is malformed; nothing was signed")
    return value


def _plain(value: Any) -> Any:
    """A form that is equal for equal values: integers may be decimal strings, hex in any case."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    text = str(value)
    return text.lower() if text[:2].lower() == "0x" else text


def _difference(where: str, asked: Any, proposed: Any) -> SignatureRefused:
    return SignatureRefused(
        f"the market proposes another value of {where} than was asked for; nothing was signed",
        details={"asked for": asked, "proposed": str(proposed)[:500]},
    )
