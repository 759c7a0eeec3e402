"""Governance of the market's parameters: each step is a contract call that the voter's wallet signs.

    delegate -> propose -> (delay) -> vote -> (period) -> queue -> (timelock) -> execute

This service holds no keys. Every call is simulated for its sender before it is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any

from backend.domain.chain import Reverted
from backend.domain.errors import InvalidInput, NotFound, Unavailable
from backend.domain.governance import restrict, without_restriction
from backend.domain.hashing import keccak, to_hash
from backend.domain.transactions import Call, as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.chain import BlockRef
    from backend.domain.governance import Proposal
    from backend.domain.ids import Account
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Chain

GOVERNOR, PARAMETERS, TIMELOCK = "MarketGovernor", "Parameters", "TimelockController"


class Ballot(IntEnum):
    """`VoteType` of OpenZeppelin's `GovernorCountingSimple`."""

    AGAINST = 0
    FOR = 1
    ABSTAIN = 2


class ProposalState(StrEnum):
    """In the order of OpenZeppelin's `IGovernor.ProposalState`."""

    PENDING = "pending"
    ACTIVE = "active"
    CANCELED = "canceled"
    DEFEATED = "defeated"
    SUCCEEDED = "succeeded"
    QUEUED = "queued"
    EXPIRED = "expired"
    EXECUTED = "executed"


MAX_DECODED_BYTES = 1 << 14
"""Longer call data of proposals are not decoded. Their pointers may name the same bytes many times: what is
decoded grows with the square.
"""
ENDED = {ProposalState.CANCELED, ProposalState.DEFEATED, ProposalState.EXPIRED, ProposalState.EXECUTED}
"""States that no later block changes."""


@dataclass(frozen=True, slots=True)
class PreparedProposal:
    """`calls`: as in `ProposalStatus`."""

    proposal_id: int
    transaction: PreparedTransaction
    calls: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ProposalStatus:
    """A proposal from events; its state and decoded calls are read from the chain's latest block."""

    proposal: Proposal
    state: ProposalState
    calls: tuple[Mapping[str, Any], ...]
    """`{"contract", "function", "args"}` each; `{"to", "data"}` for calls of other contracts, and for data
    that cannot be decoded or are long.
    """


@dataclass(frozen=True, slots=True)
class VotingPower:
    """In smallest units of the market token. Tokens carry votes only once their holder has delegated them."""

    balance: int
    delegate: Account
    votes: int


class Governance:
    def __init__(self, chain: Chain, db: Database) -> None:
        self._chain = chain
        self._db = db
        self._ended: dict[int, ProposalState] = {}
        """States of proposals that had ended at a confirmed block: they are not read again."""

    def voting_power(self, account: Account) -> VotingPower:
        balance, delegate, votes = (
            self._chain.call("MarketToken", function, account)
            for function in ("balanceOf", "delegates", "getVotes")
        )
        return VotingPower(balance, delegate, votes)

    def delegate(self, holder: Account, to: Account | None = None) -> PreparedTransaction:
        """Delegate the holder's votes to `to` (default: the holder), for proposals created afterwards."""
        return self._chain.prepare("MarketToken", "delegate", to or holder, sender=holder)

    def propose(self, proposer: Account, calls: Sequence[Call], description: str) -> PreparedProposal:
        """Propose calls for the timelock to make, in order. The description is restricted to the proposer; a
        proposer's repeated calls need another one.

        Errors: `InvalidInput`, `Reverted` (too few votes, or already proposed).
        """
        if not calls or not without_restriction(description).strip():
            raise InvalidInput("a proposal needs at least one call and a description", param="description")
        described = restrict(description, proposer)
        prepared = [self._chain.prepare(call.contract, call.function, *call.args) for call in calls]
        targets, datas = [p.to for p in prepared], [p.data for p in prepared]
        values = [0] * len(prepared)
        transaction = self._chain.prepare(
            GOVERNOR, "propose", targets, values, datas, described, sender=proposer
        )
        hashed = to_hash(keccak(described.encode()))
        proposal_id = self._chain.call(GOVERNOR, "hashProposal", targets, values, datas, hashed)
        return PreparedProposal(proposal_id, transaction, tuple(call.decoded for call in prepared))

    def propose_change(
        self, proposer: Account, changes: Mapping[str, int | str], description: str
    ) -> PreparedProposal:
        """Propose a parameter set with these fields, named as in the contract's `ParameterSet`, and the
        current values of all others.

        The proposal names the current set: if another change is executed first, its execution reverts, and it
        has to be proposed again. Errors: `InvalidInput` for an unknown field, those of `propose`.
        """
        # The set of a number never changes: whichever block or node answers, they belong together.
        number = self._chain.call(PARAMETERS, "currentId")
        current: dict[str, Any] = self._chain.call(PARAMETERS, "setAt", number)
        unknown = sorted(changes.keys() - current.keys())
        if unknown:
            raise InvalidInput(
                f"no parameter {', '.join(unknown)}; the parameters are {', '.join(current)}", param="changes"
            )
        named = ", ".join(f"{name} to {value}" for name, value in changes.items())
        call = Call(PARAMETERS, "append", (number, {**current, **changes}))
        return self.propose(proposer, [call], description or f"Set {named}")

    def vote(self, voter: Account, proposal_id: int, ballot: Ballot, reason: str = "") -> PreparedTransaction:
        return self._chain.prepare(
            GOVERNOR, "castVoteWithReason", proposal_id, int(ballot), reason, sender=voter
        )

    def queue(self, sender: Account, proposal_id: int) -> PreparedTransaction:
        """Start the timelock of a proposal that succeeded. Anyone may."""
        return self._chain.prepare(GOVERNOR, "queue", *self._operation(proposal_id), sender=sender)

    def execute(self, sender: Account, proposal_id: int) -> PreparedTransaction:
        """Make a queued proposal's calls once its timelock has passed. Anyone may."""
        return self._chain.prepare(GOVERNOR, "execute", *self._operation(proposal_id), sender=sender)

    def proposal(self, proposal_id: int) -> ProposalStatus:
        """Errors: `NotFound`, also before the proposal is confirmed."""
        proposal, confirmed = self._find(proposal_id)
        return self._status(proposal, confirmed)

    def proposals(
        self, after: str | None, limit: int, *, is_newest_first: bool = False
    ) -> list[ProposalStatus]:
        """Up to `limit` proposals, oldest or newest first: those that follow the one with the id `after`.

        Errors: `InvalidInput` if there is no such proposal.
        """
        with self._db.read() as tx:
            proposals = tx.chain.proposals(after, limit, is_newest_first=is_newest_first)
            confirmed = tx.chain.cursor()
        return [self._status(proposal, confirmed) for proposal in proposals]

    def parameters(self) -> Mapping[str, Any]:
        """The current set, by the names of the contract's `ParameterSet`."""
        found: Mapping[str, Any] = self._chain.call(PARAMETERS, "current")
        return found

    def has_voted(self, voter: Account, proposal_id: int) -> bool:
        return bool(self._chain.call(GOVERNOR, "hasVoted", proposal_id, voter))

    def votes_on(self, voter: Account, status: ProposalStatus) -> int:
        """The votes that the voter has on a proposal; before its snapshot, those of now."""
        return int(self._chain.call(GOVERNOR, "getVotes", voter, self._snapshot(status)))

    def quorum(self, status: ProposalStatus) -> int:
        """Votes for a proposal and abstentions that it needs; before its snapshot, as of now."""
        return int(self._chain.call(GOVERNOR, "quorum", self._snapshot(status)))

    def changes(self, call: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
        """The parameters that a proposal's call changes, by name: the value of the set that the call was
        derived from, and the new one. Empty for calls that append no set.
        """
        if (call.get("contract"), call.get("function")) != (PARAMETERS, "append"):
            return {}
        parent, new = call["args"].values()
        try:
            old = as_json(self._chain.call(PARAMETERS, "setAt", int(parent)))
        except Reverted:  # no such set: the call will revert
            return {}
        return {name: (old[name], value) for name, value in new.items() if old[name] != value}

    def refusal(self, call: Mapping[str, Any]) -> Reverted | None:
        """Why the contract would refuse a proposal's call now, on its own; None if it would not.

        Calls of contracts outside of the market are not simulated.
        """
        if "contract" not in call:
            return None
        timelock = self._chain.address(TIMELOCK)
        try:
            self._chain.prepare(call["contract"], call["function"], *call["args"].values(), sender=timelock)
        except Reverted as error:
            return error
        return None

    def _snapshot(self, status: ProposalStatus) -> int:
        """A past time: before the proposal's snapshot, the votes of now stand for it."""
        return min(status.proposal.vote_starts_at, self._chain.head().timestamp - 1)

    def _find(self, proposal_id: int) -> tuple[Proposal, BlockRef | None]:
        """The proposal, and the newest confirmed block. Errors: `NotFound`."""
        with self._db.read() as tx:
            proposal, confirmed = tx.chain.proposal(proposal_id), tx.chain.cursor()
        if proposal is None:
            raise NotFound(f"no proposal {proposal_id}", param="proposal_id")
        return proposal, confirmed

    def _status(self, proposal: Proposal, confirmed: BlockRef | None) -> ProposalStatus:
        calls = zip(proposal.targets, proposal.calldatas, strict=True)
        decoded = tuple(self._decode(to, data) for to, data in calls)
        return ProposalStatus(proposal, self._state(proposal.id, confirmed), decoded)

    def _decode(self, to: Account, data: str) -> Mapping[str, Any]:
        is_long = len(data) > 2 + 2 * MAX_DECODED_BYTES
        return {"to": to, "data": data} if is_long else self._chain.decode(to, data)

    def _state(self, proposal_id: int, confirmed: BlockRef | None) -> ProposalState:
        """State at the latest block. The chain is asked each time until the proposal has ended."""
        if (ended := self._ended.get(proposal_id)) is not None:
            return ended
        state = self._read_state(proposal_id)
        if state in ENDED and confirmed is not None and self._had_ended(proposal_id, state, confirmed):
            self._ended[proposal_id] = state
        return state

    def _had_ended(self, proposal_id: int, state: ProposalState, confirmed: BlockRef) -> bool:
        """Whether it was in this state at a block that no reorganisation is expected to remove."""
        try:
            return self._read_state(proposal_id, confirmed.number) is state
        except (Reverted, Unavailable):  # not yet proposed there, or the node has dropped the block's state
            return False

    def _read_state(self, proposal_id: int, block: int | None = None) -> ProposalState:
        state: int = self._chain.call(GOVERNOR, "state", proposal_id, block=block)
        return tuple(ProposalState)[state]

    def _operation(self, proposal_id: int) -> tuple[Any, ...]:
        """Targets, values, call data and description's hash: the governor stores only their hash."""
        proposal, _ = self._find(proposal_id)
        hashed = to_hash(keccak(proposal.description.encode()))
        return list(proposal.targets), list(proposal.values), list(proposal.calldatas), hashed
