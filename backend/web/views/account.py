"""The payer's account: channel, session keys, API keys and usage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.schemas.common import AmountInput
from backend.api.services import Services
from backend.domain.auth import EVERY_SCOPE, Scope
from backend.domain.catalogue import CHART_DAYS
from backend.domain.errors import NotFound
from backend.domain.ids import Account, VersionId
from backend.domain.serving import DayUsage
from backend.services.channels.channels import ChannelView
from backend.web.forms import PageForm
from backend.web.rendering import render, render_signed_out
from backend.web.route import PageRoute
from backend.web.visitor import SignedInDep, VisitorDep

router = APIRouter(prefix="/account", route_class=PageRoute)
SHOWN_TRANSACTIONS = 10
SHOWN_MODELS = 50
LEAD = "Your deposits with this operator, who may spend them, your API keys, and what you have used."


class KeyForm(PageForm):
    """`scope`: of a key that cannot read the account; default: every scope."""

    name: str
    spend_cap: AmountInput | None = None
    scope: Literal["answers"] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what was ever deposited, in micro-units. `kind`: its class in the drawing."""

    name: str
    amount: int
    kind: str


@router.get("")
def show_account(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    if visitor is None:
        return render_signed_out(request, "Your account", LEAD)
    return _page(request, services, visitor.account, "state")


@router.post("/keys")
def create_key(
    form: Annotated[KeyForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    """Creates an API key. Its secret is on the answered page alone."""
    scopes = [Scope(form.scope)] if form.scope else sorted(EVERY_SCOPE)
    made = services.keys.create(visitor.account, form.name, form.spend_cap, scopes, None)
    return _page(request, services, visitor.account, "keys", made.secret)


@router.post("/keys/{key_id}/revoke")
def revoke_key(key_id: str, request: Request, services: ServicesDep, visitor: SignedInDep) -> Response:
    services.keys.revoke(visitor.account, key_id)
    return _page(request, services, visitor.account, "keys")


def _page(
    request: Request, services: Services, account: Account, block: str, secret: str | None = None
) -> Response:
    channel, today = services.channels.list(account)[0], datetime.now(UTC).date()
    usage = services.receipts.usage(account, today - timedelta(days=CHART_DAYS - 1), today)
    return render(
        request,
        "account.html",
        block,
        lead=LEAD,
        market_url=request.app.state.market_url,
        channel=channel,
        can_get_funds=services.local_funds.are_open(account),
        parts=_parts(channel),
        now=int(datetime.now(UTC).timestamp()),
        transactions=services.registry.transactions(account, None, SHOWN_TRANSACTIONS),
        keys=services.keys.list(account),
        secret=secret,
        answers=_by_day(usage, "num_answers", today),
        spend=_by_day(usage, "spend", today),
        models=_by_model(services, usage),
        num_models=len({one.versions for one in usage}),
    )


def _parts(channel: ChannelView) -> list[Part]:
    """What was deposited and not withdrawn, by what became of it."""
    balance = channel.balance
    return [
        Part("Collected by the operator", balance.collected, "fill"),
        Part("Charged, not collected yet", max(balance.charged - balance.collected, 0), "fill half"),
        Part("Reserved for running answers", balance.reserved, "warned"),
        Part("Free", balance.unspent, "track"),
        Part("Thawing or moving away", balance.thawing + balance.moving, "second"),
    ]


def _by_day(usage: Sequence[DayUsage], figure: str, today: date) -> list[tuple[date, int]]:
    sums: Counter[date] = Counter()
    for one in usage:
        sums[one.day] += getattr(one, figure)
    days = (today - timedelta(days=ago) for ago in reversed(range(CHART_DAYS)))
    return [(day, sums[day]) for day in days]


def _by_model(services: Services, usage: Sequence[DayUsage]) -> list[dict[str, Any]]:
    """Sums of the `SHOWN_MODELS` that cost most, the first one first."""
    sums: dict[tuple[tuple[VersionId, int], ...], Counter[str]] = {}
    for one in usage:
        figures = sums.setdefault(one.versions, Counter())
        figures.update(
            answers=one.num_answers, tokens=one.prompt_tokens + one.completion_tokens, spend=one.spend
        )
    ordered = sorted(sums.items(), key=lambda model: -model[1]["spend"])
    return [
        {"names": [_name(services, version) for version, _ in versions], **figures}
        for versions, figures in ordered[:SHOWN_MODELS]
    ]


def _name(services: Services, version: VersionId) -> str:
    try:
        return services.registry.version(version).full_name(version)
    except NotFound:
        return version
