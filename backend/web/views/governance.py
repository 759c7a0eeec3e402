"""Proposals to change the market's rules: what they change, how votes stand, and what a voter can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Request
from markupsafe import Markup
from pydantic import Field
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.paging import PagingDep
from backend.api.routers.governance import ProposalId
from backend.api.schemas.common import AccountField
from backend.api.services import Services
from backend.domain.errors import InvalidInput
from backend.domain.ids import Account
from backend.services.market.governance import ENDED, Ballot, ProposalState, ProposalStatus
from backend.web.formats import full_address, title_of, votes
from backend.web.forms import PageForm
from backend.web.parameters import PARAMETERS
from backend.web.proposal import Proposal, Term, Way, propose
from backend.web.refusals import refusal_words
from backend.web.rendering import render
from backend.web.route import PageRoute
from backend.web.visitor import SignedInDep, VisitorDep

router = APIRouter(prefix="/governance", route_class=PageRoute)


class DelegateForm(PageForm):
    """`to`: default: the account itself."""

    to: AccountField | None = None


class VoteForm(PageForm):
    ballot: Literal["for", "against", "abstain"]
    reason: Annotated[str, Field(max_length=4096)] = ""


@dataclass(frozen=True, slots=True)
class SeenCall:
    """A call of a proposal, what it changes, and why it would be refused now."""

    call: Mapping[str, Any]
    changes: Mapping[str, tuple[Any, Any]]
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a proposal's life. `at`: unix seconds, None while it is not known."""

    name: str
    at: int | None
    is_past: bool


@router.get("")
def show_governance(
    request: Request, services: ServicesDep, visitor: VisitorDep, paging: PagingDep
) -> Response:
    found = services.governance.proposals(paging.after, paging.limit + 1, is_newest_first=True)
    page = paging.page(found, lambda status: status.proposal.id, lambda status: status)
    power = None if visitor is None else services.governance.voting_power(visitor.account)
    return render(
        request,
        "governance.html",
        "state",
        proposals=page.data,
        next_cursor=page.next_cursor,
        values=services.governance.parameters(),
        parameters=PARAMETERS,
        power=power,
    )


@router.post("/delegate")
def propose_delegation(
    form: Annotated[DelegateForm, Form()], request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    to = Account(form.to or visitor.account)
    power = services.governance.voting_power(visitor.account)
    prepared = services.governance.delegate(visitor.account, to)
    terms = [("Votes", votes(power.balance)), ("To", full_address(to))]
    effect = "They count in proposals that are made afterwards. The tokens stay yours, and can be moved."
    return propose(request, Proposal("Delegate your votes", terms, effect, [Way.send(prepared)]))


async def read_fields(request: Request) -> dict[str, str]:
    return {name: str(value).strip() for name, value in (await request.form()).items()}


@router.post("/propose")
def propose_change(
    fields: Annotated[dict[str, str], Depends(read_fields)],
    request: Request,
    services: ServicesDep,
    visitor: SignedInDep,
) -> Response:
    """Fields are named as in `PARAMETERS`; those that are left empty keep their values."""
    written = {name: fields[name] for name in PARAMETERS if fields.get(name)}
    if not written:
        raise InvalidInput("Enter the new value of at least one parameter.")
    changes = {name: PARAMETERS[name].parse(text) for name, text in written.items()}
    description = fields.get("description", "")
    prepared = services.governance.propose_change(visitor.account, changes, description)
    (call,) = prepared.calls
    terms = _change_terms(services.governance.changes(call))
    refusal = services.governance.refusal(call)
    if refusal is not None and refusal.error != "AppendedTooEarly":  # which a vote outlasts
        terms.append(("Would fail now", refusal_words(refusal)))
    effect = "Voters decide. If the proposal is accepted, the timelock carries it out after its delay."
    proposal = Proposal("Propose a change", terms, effect, [Way.send(prepared.transaction)])
    return propose(request, proposal)


@router.get("/{proposal_id}")
def show_proposal(
    proposal_id: ProposalId, request: Request, services: ServicesDep, visitor: VisitorDep
) -> Response:
    status, now = services.governance.proposal(int(proposal_id)), int(datetime.now(UTC).timestamp())
    account = None if visitor is None else visitor.account
    return render(
        request,
        "governed.html",
        "state",
        found=status,
        proposal=status.proposal,
        calls=[_seen(services, call) for call in status.calls],
        quorum=services.governance.quorum(status),
        is_open=status.state not in ENDED,
        parameters=PARAMETERS,
        timeline=_timeline(status, now),
        now=now,
        power=None if account is None else services.governance.votes_on(account, status),
        has_voted=account is not None and services.governance.has_voted(account, status.proposal.id),
    )


@router.post("/{proposal_id}/vote")
def propose_vote(
    proposal_id: ProposalId,
    form: Annotated[VoteForm, Form()],
    request: Request,
    services: ServicesDep,
    visitor: SignedInDep,
) -> Response:
    status = services.governance.proposal(int(proposal_id))
    ballot = Ballot[form.ballot.upper()]
    prepared = services.governance.vote(visitor.account, status.proposal.id, ballot, form.reason)
    terms = [
        ("Proposal", title_of(status.proposal.text)),
        ("Vote", form.ballot),
        ("With", votes(services.governance.votes_on(visitor.account, status))),
        ("Reason", form.reason or "none"),
    ]
    effect = "Votes are public and final: a vote cannot be changed."
    return propose(request, Proposal(f"Vote {form.ballot}", terms, effect, [Way.send(prepared)]))


@router.post("/{proposal_id}/queue")
def propose_queueing(
    proposal_id: ProposalId, request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    status = services.governance.proposal(int(proposal_id))
    prepared = services.governance.queue(visitor.account, status.proposal.id)
    terms = [("Proposal", title_of(status.proposal.text))]
    effect = "The timelock's delay begins. After it, anyone can have the proposal carried out."
    return propose(request, Proposal("Queue the proposal", terms, effect, [Way.send(prepared)]))


@router.post("/{proposal_id}/execute")
def propose_execution(
    proposal_id: ProposalId, request: Request, services: ServicesDep, visitor: SignedInDep
) -> Response:
    status = services.governance.proposal(int(proposal_id))
    prepared = services.governance.execute(visitor.account, status.proposal.id)
    terms: list[Term] = [("Proposal", title_of(status.proposal.text))]
    for call in status.calls:
        terms += _change_terms(services.governance.changes(call))
    effect = "The change takes effect with the block. Batches that are committed already keep their rules."
    return propose(request, Proposal("Carry out the proposal", terms, effect, [Way.send(prepared)]))


def _seen(services: Services, call: Mapping[str, Any]) -> SeenCall:
    refusal = services.governance.refusal(call)
    words = None if refusal is None else refusal_words(refusal)
    return SeenCall(call, services.governance.changes(call), words)


def _change_terms(changes: Mapping[str, tuple[Any, Any]]) -> list[Term]:
    """Old and new values in words."""
    written = ((PARAMETERS[name], old, new) for name, (old, new) in changes.items())
    return [
        (one.words, Markup("{} → {}").format(one.write(old), one.write(new))) for one, old, new in written
    ]


def _timeline(status: ProposalStatus, now: int) -> list[Step]:
    proposal, state = status.proposal, status.state
    begin, end = proposal.vote_starts_at, proposal.vote_ends_at
    steps = [
        Step("Voting begins, and votes are counted as of then", begin, now >= begin),
        Step("Voting ends", end, now >= end),
    ]
    if state in ENDED and state is not ProposalState.EXECUTED:
        return [*steps, Step(state.capitalize(), None, True)]
    eta = proposal.executable_at or None
    return [
        *steps,
        Step("Queued: it can be carried out from", eta, eta is not None),
        Step("Carried out", None, state is ProposalState.EXECUTED),
    ]
