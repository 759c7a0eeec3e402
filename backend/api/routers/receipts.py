"""Receipts: one for anybody who knows its id, all of them for their payer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import CallerDep, ServicesDep
from backend.api.schemas.common import INTEGERS_END, HashField, Page
from backend.api.schemas.receipts import ReceiptDetail, ReceiptSummary
from backend.domain.ids import Hash32, ReceiptId

router = APIRouter(prefix="/v1/receipts", tags=["receipts"])

Limit = Annotated[int, Query(ge=1, le=100)]


@router.get("")
def list_receipts(
    services: ServicesDep,
    caller: CallerDep,
    after: Annotated[int | None, Query(ge=0, lt=INTEGERS_END)] = None,
    limit: Limit = 20,
) -> Page[ReceiptSummary]:
    """Newest first; `after` is the last page's `next_cursor`."""
    found = services.receipts.page(caller.account, after, limit + 1)
    page = found[:limit]
    next_cursor = str(page[-1].sequence) if len(found) > limit else None
    return Page(data=[ReceiptSummary.of(stored) for stored in page], next_cursor=next_cursor)


@router.get("/{receipt_id}")
def get_receipt(receipt_id: HashField, services: ServicesDep, caller: CallerDep) -> ReceiptDetail:
    view = services.receipts.get(ReceiptId(Hash32(receipt_id)))
    return ReceiptDetail.for_viewer(view, caller.account)
