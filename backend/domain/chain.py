"""What the chain says: blocks, events, transactions and the projections made from events.

Amounts are micro-units unless a name says otherwise; instants are unix seconds of the block's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from backend.domain.caip import chain_name
from backend.domain.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.disputes.witnesses import Demand, Fault
    from backend.domain.ids import Account, ChannelId, DatanetId, Hash32, SnapshotId, VersionId
    from backend.domain.receipt import VersionRecord


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One block of the chain; number and hash together, because either alone survives a reorg."""

    number: int
    hash: Hash32
    parent_hash: Hash32
    timestamp: int


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """One decoded log. `args` holds ints, lower-case 0x-hex strings, booleans, text, lists and dicts only."""

    block_number: int
    block_hash: Hash32
    log_index: int
    tx_hash: Hash32
    timestamp: int
    contract: str
    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of the deployment's contracts, by our names of them."""

    contract: str
    function: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PreparedTransaction:
    """A call ready for somebody else's wallet: what it says in words (`decoded`) beside what they sign."""

    chain_id: int
    to: Account
    data: str
    value: int  # wei
    decoded: Mapping[str, Any]
    """`{"contract": name, "function": name, "args": {name: value}}`, integers as decimal strings."""
    gas: int | None
    """Estimate with a margin; None when no sender was named."""

    @property
    def chain(self) -> str:
        """CAIP-2."""
        return chain_name(self.chain_id)


@dataclass
class Reverted(DomainError):
    """The contract refuses the call. `error` is the custom error's name, `args` its arguments by name."""

    error: str = ""
    args_by_name: dict[str, Any] = field(default_factory=dict)


@dataclass
class ChainReplaced(DomainError):
    """The chain behind the RPC is not the one that the deployment file speaks of."""


class TransactionState(StrEnum):
    QUEUED = "queued"
    SENT = "sent"
    MINED = "mined"
    CONFIRMED = "confirmed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ChainTransaction:
    """One of our own transactions, from the wish to its confirmation."""

    id: int
    lane: Account
    contract: str
    function: str
    args: tuple[Any, ...]
    idempotency_key: str
    state: TransactionState
    nonce: int | None
    hash: Hash32 | None
    """Of the mined attempt, else of the latest one."""
    block_number: int | None
    block_hash: Hash32 | None
    error: Mapping[str, Any] | None
    """`{"error": custom error or kind, "message": text, "args": {...}}` once failed."""
    trace: str | None = None
    """Of who wished for it, as a `traceparent`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed transaction of a nonce; a replacement pays more. Fees in wei per gas."""

    tx_hash: Hash32
    raw: str
    max_fee: int
    priority_fee: int
    sent_at_block: int


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that holds a nonce and is not settled yet, with all its attempts, the latest last."""

    id: int
    contract: str
    function: str
    args: tuple[Any, ...]
    nonce: int
    gas: int
    is_mined: bool
    attempts: tuple[Attempt, ...]
    trace: str | None = None

    @property
    def is_filler(self) -> bool:
        """Does nothing but use up its nonce, which those behind it wait for."""
        return not self.contract


@dataclass(frozen=True, slots=True)
class Datanet:
    id: DatanetId
    creator: Account
    name: str
    cid_digest: Hash32
    """Folder with its description."""
    num_contributions: int


@dataclass(frozen=True, slots=True)
class Contribution:
    datanet: DatanetId
    index: int
    contributor: Account
    content_hash: Hash32
    cid_digest: Hash32
    licence: Hash32
    """SPDX expression in ASCII, left-aligned, zero-padded (its keccak if longer than 32 bytes)."""
    num_rows: int
    is_accepted: bool | None
    """None while the curators have not decided."""
    reason: int
    """The curators' machine-readable code, zero for none."""
    recorded_at: int
    block_number: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: SnapshotId
    datanet: DatanetId
    count: int
    accepted_hash: Hash32
    accepted: tuple[int, ...]
    """Indices of the accepted ones among the first `count` contributions, rising."""
    block_number: int


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    id: VersionId
    record: VersionRecord
    is_deprecated: bool
    block_number: int


@dataclass(frozen=True, slots=True)
class Channel:
    """A payer's isolated balance towards one operator."""

    id: ChannelId
    payer: Account
    operator: Account
    collector: Account
    balance: int
    """Deposited and neither withdrawn nor collected; includes `thawing`."""
    collected: int
    """Cumulative ceiling reached: everything below it is paid or waived."""
    thawing: int
    thawed_at: int
    """From when on the thawing part may leave; zero while nothing thaws."""
    reached: int = 0
    """The farthest that the line was ever collected, refunded or not: receipts up to there were signed."""

    @property
    def available(self) -> int:
        """What requests may count on."""
        return max(self.balance - self.thawing, 0)


@dataclass(frozen=True, slots=True)
class Grant:
    """A session key of a channel: may sign vouchers up to `cap` until `expiry` or its revocation."""

    channel_id: ChannelId
    key: Account
    cap: int
    expiry: int
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """The governed numbers of one set, as in Solidity's `ParameterSet`; a batch names its set by `id`."""

    id: int
    treasury: Account
    fee_ppm: int
    stake_cover_ppm: int
    dispute_window: int  # seconds
    min_contributors_ppm: int
    min_operator_ppm: int
    max_operator_ppm: int
    challenger_ppm: int
    demand_bond: int


@dataclass(frozen=True, slots=True)
class Operator:
    account: Account
    endpoint: str
    """Base URL; empty while it does not serve."""
    keys: tuple[Account, ...]
    """Receipt keys, for ever its own."""
    stake: int


class BatchState(StrEnum):
    COMMITTED = "committed"
    FINAL = "final"
    VOID = "void"


VERBS = {
    "0x85d32166": "badReceipt",
    "0x30e11da2": "badPosition",
    "0xe2a78ad0": "wrongEntry",
    "0xd96f2bd2": "wrongBalance",
    "0xc50f7058": "wrongOrder",
    "0xff3b48db": "zeroLeaf",
    "0x44037c16": "equivocation",
    "0xc685f3b9": "unanswered",
}
"""Proofs of `IDisputes` by the selectors that its events name them by."""


@dataclass(frozen=True, slots=True)
class Voiding:
    """Why batches fell, all those of an operator from number `first` on."""

    first: int
    convicted: Hash32
    """The batch that was proved wrong: the first of those that fell."""
    verb: str
    """By which proof, a name of `VERBS`."""
    challenger: Account | None
    """Who earned by it; None if nobody did."""
    fault: Fault | None
    """Where the proof was about one receipt."""
    receipt: int | None
    """That receipt's place in the batch."""
    tx_hash: Hash32
    block_number: int


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """A batch as its operator committed it; `header` has the words of Solidity's `BatchHeader`."""

    operator: Account
    number: int
    hash: Hash32
    header: Mapping[str, Any]
    state: BatchState
    tx_hash: Hash32
    block_number: int
    voiding: Voiding | None = None
    """Set where `state` is VOID."""
    is_refunded: bool = False
    """Whether a voided batch's channels are as they were before it."""


@dataclass(frozen=True, slots=True)
class PaidSpan:
    """What a batch collected from one channel: `[start, until)` of its line; `[before, start)` is waived."""

    channel_id: ChannelId
    payer: Account
    before: int
    start: int
    until: int

    @property
    def refund(self) -> dict[str, Any]:
        """Solidity's `Refund`."""
        return {"payer": self.payer, "before": self.before, "from": self.start, "until": self.until}


@dataclass(frozen=True, slots=True)
class Demanded:
    """A demand on the chain, and how far it is answered."""

    id: Hash32
    operator: Account
    demand: Demand
    unanswered: tuple[int, ...]
    """Places of the keys that wait for an answer, rising; none once their bonds went back."""
    returned_units: int
    """What went back to the challenger, in token units."""
    block_number: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What was shown for one key of a demand."""

    demand: Hash32
    key_index: int
    answerer: Account
    call: str
    """The whole calldata of `answer` or `answerReceipt`, 0x-hex."""
    block_number: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Money that left an operator's pot for an account, to the wallet that the account chose."""

    operator: Account
    account: Account
    wallet: Account
    amount: int
    cumulative: int
    tx_hash: Hash32
    block_number: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """A governance proposal; its state is a question for the chain, not for a projection."""

    id: int
    proposer: Account
    description: str
    targets: tuple[Account, ...]
    values: tuple[int, ...]
    calldatas: tuple[str, ...]
    vote_starts_at: int
    vote_ends_at: int
    votes_against: int
    votes_for: int
    votes_abstain: int
    executable_at: int
    """When the timelock lets it pass; zero until it is queued."""
    block_number: int


def as_json(value: Any) -> Any:
    """Arguments as JSON: integers as decimal strings, bytes as 0x-hex, sequences as lists."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    return [as_json(item) for item in value]
