"""EIP-712 messages for wallets (`eth_signTypedData_v4`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.hashing import keccak, to_hash, words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.ids import Hash32

DOMAIN_FIELDS = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}
"""All fields of a domain, in order. A domain's type has those that it uses."""


def build_typed_data(
    domain: Mapping[str, Any], declaration: str, message: Mapping[str, Any]
) -> dict[str, Any]:
    """Typed data for a wallet.

    `domain` has some of `DOMAIN_FIELDS`; `declaration` is the message's type in the form that is hashed;
    integers in `message` are decimal strings, which every wallet accepts.
    """
    primary_type, fields = _parse(declaration)
    return {
        "types": dict([_parse(_domain_type(domain)), (primary_type, fields)]),
        "primaryType": primary_type,
        "domain": dict(domain),
        "message": dict(message),
    }


def separator(domain: Mapping[str, Any]) -> Hash32:
    """The domain separator."""
    values = (domain[name] for name in DOMAIN_FIELDS if name in domain)
    kinds = (kind for name, kind in DOMAIN_FIELDS.items() if name in domain)
    hashed = (
        to_hash(keccak(value.encode())) if kind == "string" else value
        for kind, value in zip(kinds, values, strict=True)
    )
    return to_hash(keccak(words(to_hash(keccak(_domain_type(domain).encode())), *hashed)))


def _domain_type(domain: Mapping[str, Any]) -> str:
    fields = (f"{kind} {name}" for name, kind in DOMAIN_FIELDS.items() if name in domain)
    return f"EIP712Domain({','.join(fields)})"


def _parse(declaration: str) -> tuple[str, list[dict[str, str]]]:
    """Name and fields of a type whose fields are all atomic."""
    name, fields = declaration.removesuffix(")").split("(")
    pairs = (field.split(" ") for field in fields.split(","))
    return name, [{"name": field, "type": kind} for kind, field in pairs]
