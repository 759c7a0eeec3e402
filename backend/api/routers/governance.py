"""Governance: proposals, and transactions to propose, vote, queue and execute, prepared for the voter's
wallet.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from pydantic import AfterValidator

from backend.api.deps import PUBLIC, CallerDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute
from backend.api.paging import PagingDep
from backend.api.schemas.common import AccountField, Page, PreparedTransactionView
from backend.api.schemas.governance import (
    ChangeRequest,
    DelegateRequest,
    PreparedProposalView,
    ProposalView,
    ProposeRequest,
    VoteRequest,
    VotingPowerView,
)
from backend.domain.ids import Account

router = APIRouter(prefix="/v1/governance", tags=["governance"], route_class=IdempotentRoute)


def _uint256(value: str) -> str:
    if int(value) >= 1 << 256:
        raise ValueError("does not fit uint256")
    return value


ProposalId = Annotated[str, PathParameter(pattern="^[0-9]{1,78}$"), AfterValidator(_uint256)]
"""A decimal string: uint256 exceeds JavaScript's exact numbers."""


@router.get("/power")
def get_voting_power(
    services: ServicesDep, caller: CallerDep, account: Annotated[AccountField | None, Query()] = None
) -> VotingPowerView:
    """Retrieve an account's token balance, delegate and votes."""
    holder = Account(account or caller.account)
    return VotingPowerView.of(holder, services.governance.voting_power(holder))


@router.post("/delegate/prepare")
def prepare_delegation(
    body: DelegateRequest, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """Prepare the delegation of the caller's votes."""
    to = Account(body.to) if body.to else None
    return PreparedTransactionView.model_validate(services.governance.delegate(wallet.account, to))


@router.get("/proposals", dependencies=PUBLIC)
def list_proposals(services: ServicesDep, paging: PagingDep) -> Page[ProposalView]:
    """List proposals, oldest first."""
    found = services.governance.proposals(paging.after, paging.limit + 1)
    return paging.page(found, lambda status: status.proposal.id, ProposalView.model_validate)


@router.post("/proposals/prepare")
def prepare_proposal(body: ProposeRequest, services: ServicesDep, wallet: WalletDep) -> PreparedProposalView:
    """Prepare a proposal."""
    calls = [call.call() for call in body.calls]
    return PreparedProposalView.model_validate(
        services.governance.propose(wallet.account, calls, body.description)
    )


@router.post("/parameters/prepare")
def prepare_change(body: ChangeRequest, services: ServicesDep, wallet: WalletDep) -> PreparedProposalView:
    """Prepare a proposal that changes parameters."""
    return PreparedProposalView.model_validate(
        services.governance.propose_change(wallet.account, body.changes, body.description)
    )


@router.get("/proposals/{proposal_id}", dependencies=PUBLIC)
def get_proposal(proposal_id: ProposalId, services: ServicesDep) -> ProposalView:
    """Retrieve a proposal with its state."""
    return ProposalView.model_validate(services.governance.proposal(int(proposal_id)))


@router.post("/proposals/{proposal_id}/vote/prepare")
def prepare_vote(
    proposal_id: ProposalId, body: VoteRequest, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """Prepare a vote."""
    prepared = services.governance.vote(wallet.account, int(proposal_id), body.choice, body.reason)
    return PreparedTransactionView.model_validate(prepared)


@router.post("/proposals/{proposal_id}/queue/prepare")
def prepare_queue(
    proposal_id: ProposalId, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """Prepare the queueing of a successful proposal in the timelock."""
    return PreparedTransactionView.model_validate(services.governance.queue(wallet.account, int(proposal_id)))


@router.post("/proposals/{proposal_id}/execute/prepare")
def prepare_execution(
    proposal_id: ProposalId, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """Prepare the execution of a queued proposal."""
    return PreparedTransactionView.model_validate(
        services.governance.execute(wallet.account, int(proposal_id))
    )
