"""Why an account earned: the entries of batches, their sums, and one receipt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from backend.api.deps import CallerDep, ServicesDep
from backend.api.paging import QueryCursors
from backend.api.schemas.common import AccountField, HashField
from backend.api.schemas.earning_entries import (
    EarnedReceiptView,
    EarningEntryPage,
    EarningsSummaryView,
    csv_text,
)
from backend.domain.earnings import EarningFilter, EarningsBy, EarningState
from backend.domain.ids import Account, DatanetId, Hash32, ReceiptId
from backend.services.accounts.credit_walk import EarningsQuery, Position

router = APIRouter(prefix="/v1/earnings", tags=["earnings"])

MAX_ENTRIES = 1000
CSV = "text/csv"
UNVERIFIABLE = "x-unverifiable-operators"
CSV_RESPONSE: dict[int | str, dict[str, Any]] = {200: {"content": {CSV: {"schema": {"type": "string"}}}}}
After = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the previous page.")]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The query of a request. Its cursors are bound to the parameters, as they were sent."""

    query: EarningsQuery
    parameters: dict[str, object]

    def start(self, after: str | None, **more: object) -> Position | None:
        return None if after is None else self._cursors(more).read(after, Position.parse)

    def cursor(self, rest: Position | None, **more: object) -> str | None:
        return None if rest is None else self._cursors(more).write(rest)

    def _cursors(self, more: dict[str, object]) -> QueryCursors:
        return QueryCursors(self.parameters | more)


@dataclass(frozen=True, slots=True)
class Subject:
    """Adapter and contribution as they were sent, and the filter that they mean."""

    parameters: dict[str, object]
    wanted: EarningFilter


def get_subject(
    services: ServicesDep,
    adapter: Annotated[
        str | None, Query(max_length=200, description="`owner/name`, `owner/name@version` or a version id.")
    ] = None,
    contribution: Annotated[
        str | None,
        Query(pattern=r"^[0-9]{1,18}/[0-9]{1,18}$", description="Datanet and index in it, such as `7/0`."),
    ] = None,
) -> Subject:
    wanted = EarningFilter(
        versions=None if adapter is None else services.earnings.versions(adapter),
        contribution=None if contribution is None else _contribution(contribution),
    )
    return Subject({"adapter": adapter, "contribution": contribution}, wanted)


def get_wanted(
    caller: CallerDep,
    subject: Annotated[Subject, Depends(get_subject)],
    account: Annotated[AccountField | None, Query(description="Default: the caller's own.")] = None,
    since: Annotated[date | None, Query(description="First UTC day of the batches' commits.")] = None,
    until: Annotated[date | None, Query(description="Last UTC day of the batches' commits.")] = None,
    operator: Annotated[AccountField | None, Query()] = None,
    state: Annotated[EarningState | None, Query(description="Default: all but `void`.")] = None,
) -> Wanted:
    whose, by = Account(account or caller.account), None if operator is None else Account(operator)
    parameters = {"account": whose, "since": since, "until": until, "operator": operator, "state": state}
    query = EarningsQuery(whose, since, until, by, state, subject.wanted)
    return Wanted(query, parameters | subject.parameters)


WantedDep = Annotated[Wanted, Depends(get_wanted)]


@router.get("/entries", response_model=EarningEntryPage, responses=CSV_RESPONSE)
def list_entries(
    services: ServicesDep,
    request: Request,
    wanted: WantedDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ENTRIES)] = 100,
    form: Annotated[Literal["json", "csv"] | None, Query(alias="format")] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> EarningEntryPage | Response:
    """List what batches credit to the caller or to another account, entry by entry: by operator, the newest
    batch first. A page with a `next_cursor` may have fewer than `limit` entries. With `format=csv` or
    `Accept: text/csv` a page is a CSV file: the header `Link` has the next one's address, and
    `X-Unverifiable-Operators` the operators of which batches are left out.
    """
    page = services.earnings.entries(wanted.query, wanted.start(after), limit)
    view = EarningEntryPage.of(page, wanted.cursor(page.rest))
    if form == "csv" or (form is None and _prefers_csv(accept)):
        return _csv(view, request)
    return view


@router.get("/summary")
def get_summary(
    services: ServicesDep,
    wanted: WantedDep,
    by: Annotated[EarningsBy, Query()] = EarningsBy.DAY,
    after: After = None,
) -> EarningsSummaryView:
    """Sum the same entries by UTC day of the batch's commit, adapter version, contribution or operator."""
    summary = services.earnings.summary(wanted.query, by, wanted.start(after, by=by))
    cursor = wanted.cursor(summary.rest, by=by)
    return EarningsSummaryView.of(wanted.query.account, by, summary, cursor)


@router.get("/entries/{receipt_id}")
def get_earned_receipt(
    receipt_id: HashField,
    services: ServicesDep,
    caller: CallerDep,
    account: Annotated[AccountField | None, Query(description="Default: the caller's own.")] = None,
) -> EarnedReceiptView:
    """Retrieve what a receipt paid the caller or another account, among the others' parts."""
    receipt = ReceiptId(Hash32(receipt_id))
    found = services.earned_receipts.get(Account(account or caller.account), receipt)
    return EarnedReceiptView.of(found)


def _contribution(text: str) -> tuple[DatanetId, int]:
    datanet, index = text.split("/")
    return DatanetId(int(datanet)), int(index)


def _prefers_csv(accept: str) -> bool:
    """Whether CSV is the first of our two media types in an `Accept` header."""
    named = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return next((kind for kind in named if kind in (CSV, "application/json")), "") == CSV


def _csv(page: EarningEntryPage, request: Request) -> Response:
    unverifiable = ",".join(one.operator for one in page.unverifiable)
    headers = {UNVERIFIABLE: unverifiable} if unverifiable else None
    response = Response(csv_text(page.data), media_type=CSV, headers=headers)
    if page.next_cursor is not None:
        url = request.url.include_query_params(after=page.next_cursor)
        response.headers["link"] = f'<{url.path}?{url.query}>; rel="next"'
    return response
