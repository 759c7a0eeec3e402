"""Receipts: any receipt by its id, and a list of the payer's own."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from backend.api.deps import CallerDep, ServicesDep, get_admitted
from backend.api.paging import PagingDep
from backend.api.schemas.common import HashField, Page
from backend.api.schemas.receipts import PendingReceipt, ReceiptDetail, ReceiptProofView, ReceiptSummary
from backend.domain.ids import Hash32
from backend.services.receipts.receipts import ReceiptView

router = APIRouter(prefix="/v1/receipts", tags=["receipts"])


@router.get("")
def list_receipts(services: ServicesDep, caller: CallerDep, paging: PagingDep) -> Page[ReceiptSummary]:
    """List the caller's receipts, newest first."""
    found = services.receipts.page(caller.account, paging.after_number, paging.limit + 1)
    return paging.page(found, lambda stored: stored.sequence, ReceiptSummary.model_validate)


@router.get("/{receipt_id}", responses={202: {"model": PendingReceipt}})
def get_receipt(
    receipt_id: HashField, services: ServicesDep, caller: CallerDep, response: Response
) -> ReceiptDetail | PendingReceipt:
    """Retrieve a receipt by its id or by its charge's; 202 and the charge while the receipt is pending."""
    found = services.receipts.find(Hash32(receipt_id))
    if isinstance(found, ReceiptView):
        return ReceiptDetail.for_viewer(found, caller.account)
    response.status_code = 202
    return PendingReceipt.for_viewer(found, caller.account)


@router.get("/{receipt_id}/proof", dependencies=[Depends(get_admitted)])
def get_receipt_proof(receipt_id: HashField, services: ServicesDep) -> ReceiptProofView:
    """Retrieve Merkle proofs that a committed batch includes the receipt and credits its earnings."""
    return ReceiptProofView.of(services.proofs.inclusion(services.receipts.resolve(Hash32(receipt_id))))
