from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from backend.api.schemas.common import AccountField, PreparedTransactionView, Schema, View
from backend.domain.transactions import Call
from backend.services.market.governance import Ballot, PreparedProposal, ProposalStatus, VotingPower


class VotingPowerView(View):
    """Smallest units of the market token, decimal. Tokens count once their holder has delegated them."""

    account: str
    balance: str
    delegate: str
    votes: str

    @classmethod
    def of(cls, account: str, power: VotingPower) -> VotingPowerView:
        return cls(
            account=account, balance=str(power.balance), delegate=power.delegate, votes=str(power.votes)
        )


class DelegateRequest(Schema):
    """Left out: the caller's own account, which is what makes tokens count."""

    to: AccountField | None = None


class CallBody(Schema):
    """One thing that a proposal does, by the deployment's names of contracts."""

    contract: str
    function: str
    args: list[Any] = Field(default_factory=list)

    def call(self) -> Call:
        return Call(self.contract, self.function, tuple(self.args))


class ProposeRequest(Schema):
    calls: Annotated[list[CallBody], Field(min_length=1, max_length=16)]
    description: Annotated[str, Field(min_length=1, max_length=1 << 16)]


class PreparedProposalView(View):
    proposal_id: str
    transaction: PreparedTransactionView

    @classmethod
    def of(cls, prepared: PreparedProposal) -> PreparedProposalView:
        transaction = PreparedTransactionView.of(prepared.transaction)
        return cls(proposal_id=str(prepared.proposal_id), transaction=transaction)


class VoteRequest(Schema):
    ballot: Literal["for", "against", "abstain"]
    reason: Annotated[str, Field(max_length=4096)] = ""

    @property
    def choice(self) -> Ballot:
        return Ballot[self.ballot.upper()]


class ProposalView(View):
    """`calls` is what it does, decoded; votes in smallest units of the market token, decimal."""

    id: str
    proposer: str
    description: str
    state: str
    calls: list[dict[str, Any]]
    vote_starts_at: int
    vote_ends_at: int
    executable_at: int
    votes_for: str
    votes_against: str
    votes_abstain: str

    @classmethod
    def of(cls, status: ProposalStatus) -> ProposalView:
        proposal = status.proposal
        return cls(
            id=str(proposal.id),
            proposer=proposal.proposer,
            description=proposal.description,
            state=status.state.value,
            calls=[dict(call) for call in status.calls],
            vote_starts_at=proposal.vote_starts_at,
            vote_ends_at=proposal.vote_ends_at,
            executable_at=proposal.executable_at,
            votes_for=str(proposal.votes_for),
            votes_against=str(proposal.votes_against),
            votes_abstain=str(proposal.votes_abstain),
        )
