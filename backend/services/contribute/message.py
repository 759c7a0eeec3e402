"""The EIP-712 message that a contributor signs: typed data, digest, and argument of the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.content import cid_digest
from backend.domain.eip712 import build_typed_data
from backend.domain.errors import Conflict
from backend.domain.hashing import CONTRIBUTION_TYPE, TypedDomain, licence_word

if TYPE_CHECKING:
    from backend.domain.contribution import Upload


def typed_data(domain: TypedDomain, upload: Upload) -> dict[str, Any]:
    """For `eth_signTypedData_v4`."""
    message = {"account": upload.account} | _contribution(upload) | _signing_request(upload)
    return build_typed_data(domain.fields, CONTRIBUTION_TYPE, message)


def signing_digest(domain: TypedDomain, upload: Upload) -> bytes:
    values = _contribution(upload) | _signing_request(upload)
    return domain.contribution_digest(
        upload.account,
        upload.datanet,
        values["contentHash"],
        values["cidDigest"],
        values["licence"],
        upload.report.num_rows,
        int(values["nonce"]),
        int(values["deadline"]),
    )


def signed_contribution(upload: Upload, signature: str) -> dict[str, Any]:
    """The registry's `SignedContribution`."""
    contribution = _contribution(upload)
    signing_request = _signing_request(upload)
    return {
        "contributor": upload.account,
        "contribution": contribution,
        **signing_request,
        "signature": signature,
    }


def _contribution(upload: Upload) -> dict[str, Any]:
    report = upload.report
    if report.content_hash is None or report.cid is None:
        raise Conflict(f"upload {upload.id} is {upload.state} and has nothing to sign", "upload_id")
    return {
        "datanetId": str(upload.datanet),
        "contentHash": report.content_hash,
        "cidDigest": cid_digest(report.cid),
        "licence": licence_word(report.licence),
        "rows": str(report.num_rows),
    }


def _signing_request(upload: Upload) -> dict[str, Any]:
    if upload.signing_request is None:
        raise Conflict(f"ask for the typed data of upload {upload.id} first", "upload_id")
    return {"nonce": str(upload.signing_request.nonce), "deadline": str(upload.signing_request.deadline)}
