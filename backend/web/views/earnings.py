"""What an account earns as contributor, creator or operator, why, and its claims."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request
from markupsafe import Markup
from starlette.responses import Response, StreamingResponse

from backend.api.deps import Caller, ServicesDep
from backend.api.routers.earning_entries import (
    CSV,
    MAX_ENTRIES,
    After,
    Subject,
    Wanted,
    get_subject,
    get_wanted,
)
from backend.api.schemas.common import AccountField, HashField
from backend.api.schemas.earning_entries import EarningEntryView, csv_of_unverifiable, csv_text
from backend.domain.catalogue import CHART_DAYS
from backend.domain.earnings import EarningsBy
from backend.domain.errors import Conflict
from backend.domain.ids import ZERO_ACCOUNT, Account, Hash32, ReceiptId
from backend.services.accounts.claims import MIN_RELAYED_UNITS
from backend.web.formats import full_address, usd
from backend.web.forms import PageForm
from backend.web.proposal import Proposal, Way, propose
from backend.web.rendering import render, render_signed_out
from backend.web.route import PageRoute
from backend.web.visitor import SignedInDep, Visitor, VisitorDep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backend.services.accounts.earnings import EarningsPage, Totals

router = APIRouter(prefix="/earnings", route_class=PageRoute)
SHOWN_ENTRIES = 25
LEAD = "What answers paid you as contributor, creator or operator, by which receipts, and what you can claim."


class ClaimForm(PageForm):
    operator: AccountField


class PayoutForm(PageForm):
    """`wallet`: default: the account itself."""

    wallet: AccountField = ZERO_ACCOUNT


SubjectDep = Annotated[Subject, Depends(get_subject)]


@router.get("")
def show_earnings(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    subject: SubjectDep,
    by: Annotated[EarningsBy, Query()] = EarningsBy.DAY,
    after: After = None,
) -> Response:
    if visitor is None:
        return render_signed_out(request, "Your earnings", LEAD)
    wanted, account = _wanted(visitor, subject), visitor.account
    page = services.earnings.entries(wanted.query, wanted.start(after), SHOWN_ENTRIES)
    summary = services.earnings.summary(wanted.query, by, None)
    claimable = services.claims.claimable(account)
    return render(
        request,
        "earnings.html",
        "state",
        lead=LEAD,
        claimable=claimable,
        total=sum(one.cumulative for one in claimable.found),
        to_claim=sum(one.claimable for one in claimable.found),
        payout=services.payouts.wallet_of(account),
        by=by,
        summary=summary,
        days=_last_days(summary.groups) if by is EarningsBy.DAY else [],
        entries=page.entries,
        unverifiable=page.unverifiable,
        subject=subject.parameters,
        query=urlencode({name: value for name, value in subject.parameters.items() if value}),
        next_after=wanted.cursor(page.rest),
    )


@router.get("/entries.csv")
def get_csv(services: ServicesDep, visitor: SignedInDep, subject: SubjectDep) -> Response:
    """All entries as a file, in the columns of the API's. Its last rows name the operators of which batches
    are left out.
    """
    wanted = _wanted(visitor, subject)
    first = services.earnings.entries(wanted.query, None, MAX_ENTRIES)

    def lines() -> Iterator[str]:
        page: EarningsPage = first
        yield _rows(page, has_header=True)
        left_out = {one.operator for one in page.unverifiable}
        while page.rest is not None:
            page = services.earnings.entries(wanted.query, page.rest, MAX_ENTRIES)
            yield _rows(page)
            left_out |= {one.operator for one in page.unverifiable}
        yield csv_of_unverifiable(sorted(left_out))

    headers = {"content-disposition": 'attachment; filename="earnings.csv"'}
    return StreamingResponse(lines(), media_type=CSV, headers=headers)


@router.get("/receipts/{receipt_id}")
def show_receipt(
    receipt_id: HashField, request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    """What one receipt paid the visitor, among the others' parts."""
    found = services.earned_receipts.get(visitor.account, ReceiptId(Hash32(receipt_id)))
    return render(request, "earned_receipt.html", found=found, body=found.signed.receipt)


@router.post("/claim")
def propose_claim(
    form: Annotated[ClaimForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    operator, account = Account(form.operator), visitor.account
    prepared = services.claims.prepare(operator, account, sender=account)
    found = services.claims.claimable_from(operator, account)
    ways = [Way.send(prepared)]
    if found.units >= MIN_RELAYED_UNITS:
        ways.insert(0, Way.ask_operator("/claims/relay", {"operator": operator}))
    terms = [
        ("Amount", usd(found.claimable)),
        ("From", Markup("the operator {}").format(full_address(operator))),
        ("To", full_address(services.payouts.wallet_of(account))),
    ]
    effect = "The settlement contract pays out what final batches credit to you, in whole token units."
    return propose(request, Proposal("Claim your earnings", terms, effect, ways))


@router.post("/payout")
def propose_payout(
    form: Annotated[PayoutForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    account, wallet = visitor.account, Account(form.wallet)
    present = services.payouts.wallet_of(account)
    if present == (account if wallet == ZERO_ACCOUNT else wallet):
        raise Conflict(f"Claims are paid to {present} already.")
    prepared = services.payouts.prepare(account, wallet)
    ways = [Way.send(prepared.transaction)]
    if sum(one.units for one in services.claims.claimable(account).found) >= MIN_RELAYED_UNITS:
        change = {"wallet": wallet, "nonce": str(prepared.nonce), "deadline": prepared.deadline}
        ways.insert(0, Way.sign(prepared.typed_data, "/payouts/relay", {"relay": change}))
    paid_to = account if wallet == ZERO_ACCOUNT else wallet
    terms = [("From now on", full_address(paid_to)), ("Until now", full_address(present))]
    effect = "All later claims of this account are paid to that wallet, also if another account sends them."
    return propose(request, Proposal("Change the payout wallet", terms, effect, ways))


def _last_days(groups: Iterable[Totals]) -> list[tuple[date, int]]:
    """What each of the last days credited, in micro-units."""
    amounts, today = {group.key: group.amount for group in groups}, datetime.now(UTC).date()
    days = (today - timedelta(days=ago) for ago in reversed(range(CHART_DAYS)))
    return [(day, amounts.get(day.isoformat(), 0)) for day in days]


def _wanted(visitor: Visitor, subject: Subject) -> Wanted:
    return get_wanted(Caller(visitor.account, None, visitor.token), subject)


def _rows(page: EarningsPage, *, has_header: bool = False) -> str:
    return csv_text(map(EarningEntryView.model_validate, page.entries), has_header=has_header)
