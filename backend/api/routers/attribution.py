"""To whose data an answer is attributed: what its receipt says, summed up."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from backend.api.deps import ServicesDep, get_reader
from backend.api.schemas.common import HashField
from backend.api.schemas.receipts import AttributionView
from backend.domain.ids import Hash32, ReceiptId

router = APIRouter(prefix="/v1/attribution", tags=["receipts"])


@router.get("/{receipt_id}", dependencies=[Depends(get_reader)])
def get_attribution(receipt_id: HashField, services: ServicesDep) -> AttributionView:
    """For whoever may see the receipt."""
    return AttributionView.of(services.receipts.get(ReceiptId(Hash32(receipt_id))))
