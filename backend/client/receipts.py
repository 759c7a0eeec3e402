"""Offline checks of a receipt: from its file and the pinned deployment, without market, chain or index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.hashing import TypedDomain
from backend.domain.ids import Account
from backend.domain.receipt_checks import Check, hash_check, slices_check
from backend.domain.signatures import malformed_signature, parse_signature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.deployment import Deployment
    from backend.domain.receipt_checks import ReceiptFile


def offline_checks(file: ReceiptFile, deployment: Deployment) -> Iterator[Check]:
    """Yield the checks of an installation, in its order; those that need the chain are open."""
    yield hash_check(file)
    yield _signature_check(file, deployment)
    yield slices_check(file.signed)
    yield Check("charge", is_right=None, message="the versions' prices are on the chain")
    yield Check("batch", is_right=None, message="the batch's root is on the chain")


def _signature_check(file: ReceiptFile, deployment: Deployment) -> Check:
    domain = TypedDomain(deployment.chain_id, deployment.address("Settlement"))
    try:
        signer = recover(domain.receipt_digest(file.signed.receipt), file.signed.signature)
    except InvalidInput as error:
        return Check("signature", is_right=False, message=f"malformed: {error}")
    return Check(
        "signature",
        is_right=None,
        message=f"by {signer}; the receipt keys of {file.operator} are on the chain",
    )


def recover(digest: bytes, signature: str) -> Account:
    """Recover the account that signed a 32-byte digest. Errors: `InvalidInput`."""
    from eth_keys.datatypes import Signature
    from eth_keys.exceptions import BadSignature

    compact, parity = parse_signature(signature)
    try:
        key = Signature(compact + bytes([parity])).recover_public_key_from_msg_hash(digest)
    except BadSignature:
        raise malformed_signature("no key made it") from None
    return Account(key.to_address())
