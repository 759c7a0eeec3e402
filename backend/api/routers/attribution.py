"""Attribution of an answer to contributors, from its receipt."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from backend.api.deps import ServicesDep, get_account_caller
from backend.api.schemas.common import HashField
from backend.api.schemas.receipts import AttributionView
from backend.domain.ids import Hash32

router = APIRouter(prefix="/v1/attribution", tags=["receipts"])


@router.get("/{receipt_id}", dependencies=[Depends(get_account_caller)])
def get_attribution(receipt_id: HashField, services: ServicesDep) -> AttributionView:
    """Retrieve the attribution of an answer, by contribution and summed up by account."""
    return AttributionView.of(services.receipts.get(Hash32(receipt_id)))
