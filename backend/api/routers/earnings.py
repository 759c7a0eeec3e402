"""Earnings, claims and payout wallets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, status

from backend.api.deps import CallerDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute
from backend.api.paging import QueryCursors
from backend.api.routers.earning_entries import After
from backend.api.schemas.common import AccountField, Page, PreparedTransactionView, TransactionQueued
from backend.api.schemas.earnings import (
    ClaimRequest,
    EarningView,
    PayoutRequest,
    PayoutView,
    PreparedPayoutView,
    RelayPayoutRequest,
)
from backend.domain.ids import Account
from backend.services.accounts.claims import MAX_OPERATORS, MIN_RELAYED_UNITS, OperatorCursor

router = APIRouter(prefix="/v1", tags=["earnings"], route_class=IdempotentRoute)


@router.get("/earnings")
def list_earnings(
    services: ServicesDep,
    caller: CallerDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_OPERATORS)] = 20,
    account: Annotated[AccountField | None, Query()] = None,
) -> Page[EarningView]:
    """List earnings by operator, of the caller or of another account: earnings are public. A page is of
    `limit` operators and has those that credited the account, or that cannot be verified. With a
    `next_cursor` it may have fewer than `limit` items, or none.
    """
    earner = Account(account or caller.account)
    cursors = QueryCursors({"account": earner})
    place = None if after is None else cursors.read(after, OperatorCursor.parse)
    page = services.claims.claimable(earner, place, limit)
    return Page(
        data=[EarningView.model_validate(one) for one in page.found],
        next_cursor=None if page.rest is None else cursors.write(page.rest),
    )


@router.post("/claims/prepare")
def prepare_claim(body: ClaimRequest, services: ServicesDep, wallet: WalletDep) -> PreparedTransactionView:
    """Prepare a claim to send."""
    account = Account(body.account or wallet.account)
    prepared = services.claims.prepare(Account(body.operator), account, sender=wallet.account)
    return PreparedTransactionView.model_validate(prepared)


@router.post("/claims/relay", status_code=status.HTTP_202_ACCEPTED)
def relay_claim(body: ClaimRequest, services: ServicesDep, wallet: WalletDep) -> TransactionQueued:
    """Have the operator send a claim of at least 0.00001 dollars, within its budget for relays."""
    account = Account(body.account or wallet.account)
    operator = Account(body.operator)
    queued = services.claims.relay(operator, account, MIN_RELAYED_UNITS, requester=wallet.account)
    return TransactionQueued(transaction_id=queued)


@router.get("/payouts")
def get_payout(services: ServicesDep, caller: CallerDep) -> PayoutView:
    """Retrieve the wallet that the caller's claims are paid to."""
    return PayoutView(account=caller.account, wallet=services.payouts.wallet_of(caller.account))


@router.post("/payouts/prepare")
def prepare_payout(body: PayoutRequest, services: ServicesDep, wallet: WalletDep) -> PreparedPayoutView:
    """Prepare a change of the payout wallet."""
    return PreparedPayoutView.of(services.payouts.prepare(wallet.account, Account(body.wallet)))


@router.post("/payouts/relay", status_code=status.HTTP_202_ACCEPTED)
def relay_payout(body: RelayPayoutRequest, services: ServicesDep, wallet: WalletDep) -> TransactionQueued:
    """Have the operator send a signed change of the payout wallet. Limited to accounts whose claims it relays
    too.
    """
    change = body.relay
    terms = (Account(change.wallet), change.nonce, change.deadline, body.signature)
    queued = services.payouts.relay(wallet.account, *terms, MIN_RELAYED_UNITS)
    return TransactionQueued(transaction_id=queued)
