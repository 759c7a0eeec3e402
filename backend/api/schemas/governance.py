from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasPath, Field

from backend.api.schemas.common import (
    AccountField,
    Entries,
    IntString,
    Items,
    PreparedTransactionView,
    Schema,
    View,
)
from backend.domain.transactions import Call
from backend.services.market.governance import Ballot, VotingPower


class VotingPowerView(View):
    """In the market token's smallest units, as decimal strings. Tokens count once their holder delegates
    them.
    """

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
    """`to`: the delegate; default: the caller's own account, which activates its votes."""

    to: AccountField | None = None


class CallBody(Schema):
    """One call of a proposal. `contract`: its name in the deployment."""

    contract: str
    function: str
    args: Items[Any] = Field(default_factory=list)

    def call(self) -> Call:
        return Call(self.contract, self.function, tuple(self.args))


class ProposeRequest(Schema):
    calls: Annotated[Items[CallBody], Field(min_length=1, max_length=16)]
    description: Annotated[str, Field(min_length=1, max_length=1 << 16)]


class ChangeRequest(Schema):
    """`changes`: new values by field of the contract's `ParameterSet`; the other fields keep theirs.
    `description`: default: what the changes are.
    """

    changes: Annotated[Entries[str, int | AccountField], Field(min_length=1)]
    description: Annotated[str, Field(max_length=1 << 16)] = ""


class PreparedProposalView(View):
    proposal_id: IntString
    transaction: PreparedTransactionView


class VoteRequest(Schema):
    ballot: Literal["for", "against", "abstain"]
    reason: Annotated[str, Field(max_length=4096)] = ""

    @property
    def choice(self) -> Ballot:
        return Ballot[self.ballot.upper()]


class ProposalView(View):
    """`description`: without the suffix `#proposer=` with the proposer's address, which its hash on the chain
    includes. `calls`: the decoded calls. Votes are in the market token's smallest units, as decimal strings.
    """

    id: IntString = Field(validation_alias=AliasPath("proposal", "id"))
    proposer: str = Field(validation_alias=AliasPath("proposal", "proposer"))
    description: str = Field(validation_alias=AliasPath("proposal", "text"))
    state: str
    calls: list[dict[str, Any]]
    vote_starts_at: int = Field(validation_alias=AliasPath("proposal", "vote_starts_at"))
    vote_ends_at: int = Field(validation_alias=AliasPath("proposal", "vote_ends_at"))
    executable_at: int = Field(validation_alias=AliasPath("proposal", "executable_at"))
    votes_for: IntString = Field(validation_alias=AliasPath("proposal", "votes_for"))
    votes_against: IntString = Field(validation_alias=AliasPath("proposal", "votes_against"))
    votes_abstain: IntString = Field(validation_alias=AliasPath("proposal", "votes_abstain"))
