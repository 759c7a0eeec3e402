"""A receipt, decoded, and the documents with which the visitor's browser checks it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.schemas.common import HashField
from backend.api.schemas.receipts import ReceiptDetail, ReceiptProofView
from backend.api.schemas.registry import VersionView
from backend.api.services import Services
from backend.domain.errors import DomainError, NotFound
from backend.domain.ids import ZERO_HASH, Hash32, VersionId
from backend.domain.receipt import VersionRecord
from backend.services.receipts.proofs import NotCommitted
from backend.services.receipts.receipts import ReceiptView
from backend.web.rendering import render
from backend.web.route import PageRoute
from backend.web.visitor import Visitor, VisitorDep

router = APIRouter(prefix="/r", route_class=PageRoute)
OWN_NODES = ("https:", "http://127.0.0.1:*", "http://localhost:*")
"""Where visitors' own nodes may be: a page that checks must be able to ask any of them."""
CHECKS = {
    "hash": "It is the receipt that its id names",
    "signature": "A receipt key of the operator, registered on the chain, has signed it",
    "slices": "Versions and shares are the signed ones",
    "charge": "The charge is tokens times the prices registered on the chain",
    "batch": "A path leads from it to the batch whose hash the chain has",
    "earnings": "That batch credits each part of the charge to whom the terms name",
    "charged": "It is the receipt of the charge that it states: compare the id with that of the answer",
}
"""What `@loraledger/verify` checks, in its order. `charged` is only for receipts that followed a charge."""


@router.get("/{receipt_id}")
def show_receipt(
    receipt_id: HashField, request: Request, services: ServicesDep, visitor: VisitorDep
) -> Response:
    view = services.receipts.get(Hash32(receipt_id))
    request.state.connects_to = OWN_NODES
    checks = CHECKS if view.charge else {name: CHECKS[name] for name in CHECKS if name != "charged"}
    return render(
        request,
        "receipt.html",
        receipt=_detail(view, visitor),
        weights=view.weights(),
        models=[_model(services, part.version_id) for part in view.slices],
        no_adapter=ZERO_HASH,
        batch_state=view.batch_state,
        checks=checks,
        settlement=services.deployment.address("Settlement"),
    )


@router.get("/{receipt_id}/evidence")
def get_evidence(receipt_id: HashField, services: ServicesDep, visitor: VisitorDep) -> dict[str, Any]:
    """What `verifyReceipt` takes besides a node. The salt is for the payer only, as in the API.

    `no_proof`: why there is no proof, although the receipt is in a batch.
    """
    view = services.receipts.get(Hash32(receipt_id))
    versions = {part.version_id: services.registry.version(part.version_id) for part in view.slices}
    snapshots = {snapshot for record in versions.values() for snapshot in record.snapshots}
    evidence = {
        "receipt": _detail(view, visitor),
        "market": asdict(services.deployment),
        "versions": [VersionView.of(version, record) for version, record in versions.items()],
        "snapshots": [services.snapshots.manifest(snapshot) for snapshot in sorted(snapshots)],
    }
    try:
        return {**evidence, "proof": ReceiptProofView.of(services.proofs.inclusion(view.stored.id))}
    except NotCommitted:
        return evidence
    except DomainError as error:
        return {**evidence, "no_proof": f"There is no proof of its batch now: {error.message.rstrip('.')}."}


def _detail(view: ReceiptView, visitor: Visitor | None) -> ReceiptDetail:
    return ReceiptDetail.for_viewer(view, None if visitor is None else visitor.account)


def _model(services: Services, version: VersionId) -> tuple[str, VersionRecord | None]:
    """Name and record of a receipt's version; no record if the indexed chain does not have it (yet)."""
    try:
        record = services.registry.version(version)
    except NotFound:
        return version, None
    return record.full_name(version), record
