"""Usage and spend of the caller."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import CallerDep, ServicesDep
from backend.api.paging import PagingDep
from backend.api.schemas.common import Page
from backend.api.schemas.usage import DayUsageView

router = APIRouter(prefix="/v1/usage", tags=["receipts"])

DEFAULT_DAYS = 30


@router.get("")
def list_usage(
    services: ServicesDep,
    caller: CallerDep,
    paging: PagingDep,
    first: Annotated[date | None, Query(description="UTC; default: 29 days before `last`")] = None,
    last: Annotated[date | None, Query(description="UTC; default: today")] = None,
) -> Page[DayUsageView]:
    """List usage by day (UTC) and model, oldest first, of all the wallet's keys together."""
    last = last or datetime.now(UTC).date()
    found = services.receipts.usage(caller.account, first or _days_before(last), last)
    return paging.page_of_all(
        found, lambda usage: f"{usage.day} {usage.slices_hash}", DayUsageView.model_validate
    )


def _days_before(last: date) -> date:
    return date.fromordinal(max(last.toordinal() - timedelta(days=DEFAULT_DAYS - 1).days, 1))
