"""Earnings and claims."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, status

from backend.api.deps import CallerDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute
from backend.api.paging import PagingDep
from backend.api.schemas.common import AccountField, Page, PreparedTransactionView, TransactionQueued
from backend.api.schemas.earnings import ClaimRequest, EarningView
from backend.domain.ids import Account
from backend.services.claim import MIN_RELAYED_UNITS

router = APIRouter(prefix="/v1", tags=["earnings"], route_class=IdempotentRoute)


@router.get("/earnings")
def list_earnings(
    services: ServicesDep,
    caller: CallerDep,
    paging: PagingDep,
    account: Annotated[AccountField | None, Query()] = None,
) -> Page[EarningView]:
    """By operator, of the caller or of any other account: it is all public."""
    found = services.claims.claimable(Account(account or caller.account))
    return paging.page_of_all(found, lambda claimable: claimable.operator, EarningView.of)


@router.post("/claims/prepare")
def prepare_claim(body: ClaimRequest, services: ServicesDep, wallet: WalletDep) -> PreparedTransactionView:
    account = Account(body.account or wallet.account)
    prepared = services.claims.prepare(Account(body.operator), account, sender=wallet.account)
    return PreparedTransactionView.of(prepared)


@router.post("/claims/relay", status_code=status.HTTP_202_ACCEPTED)
def relay_claim(body: ClaimRequest, services: ServicesDep, wallet: WalletDep) -> TransactionQueued:
    account = Account(body.account or wallet.account)
    queued = services.claims.relay(Account(body.operator), account, MIN_RELAYED_UNITS)
    return TransactionQueued(transaction_id=queued)
