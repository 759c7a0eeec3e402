"""EIP-712 messages as wallets show and sign them (`eth_signTypedData_v4`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.hashing import DOMAIN_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping


def payload(domain: Mapping[str, Any], declaration: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """`domain`: the fields of `DOMAIN_TYPE`; `declaration`: of the message's type, as it is hashed; `message`
    with integers as decimal strings, which every wallet takes.
    """
    primary_type, fields = _parse(declaration)
    return {
        "types": dict([_parse(DOMAIN_TYPE), (primary_type, fields)]),
        "primaryType": primary_type,
        "domain": dict(domain),
        "message": dict(message),
    }


def _parse(declaration: str) -> tuple[str, list[dict[str, str]]]:
    """Name and fields of a type whose fields are all atomic."""
    name, fields = declaration.removesuffix(")").split("(")
    pairs = (field.split(" ") for field in fields.split(","))
    return name, [{"name": field, "type": kind} for kind, field in pairs]
