"""Committed batches, disputes about them, and claims, as events of `Settlement` and `Disputes` report them.

Source: docs/protocol.md, "Batch" and "Disputes". Amounts are in micro-units unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.disputes.witnesses import Fault, Tree
    from backend.domain.ids import Account, ChannelId, Hash32


class BatchState(StrEnum):
    COMMITTED = "committed"
    FINAL = "final"
    VOID = "void"


DISPUTE_FUNCTIONS = {
    "0xd831810b": "proveBadReceipt",
    "0x2ee4be83": "proveBadPosition",
    "0xdc46caec": "proveWrongEntry",
    "0xf243e713": "proveWrongBalance",
    "0x48bfae9d": "proveBelowClaimed",
    "0x14dd30e9": "proveWrongOrder",
    "0xb5be7456": "proveZeroLeaf",
    "0xa1198b17": "proveEquivocation",
    "0x299a1aa0": "voidUnanswered",
}
"""Selector -> function of `IDisputes` that convicts a batch. The contract's events carry the selector."""


BURNT_DIVISOR = 4
"""One part in so many of a bond is never paid out (`BURNT_DIVISOR` of contracts/libraries/Demands.sol)."""


@dataclass(frozen=True, slots=True)
class Conviction:
    """A successful fraud proof against one of the operator's pending batches. It voids all of them."""

    first: int
    """Number of the first of the voided batches."""
    convicted: Hash32
    """Hash of the convicted batch."""
    proof: str
    """Function of `Disputes` that convicted the batch, one of `DISPUTE_FUNCTIONS`."""
    challenger: Account | None
    """The account that is rewarded, if any."""
    fault: Fault | None
    """The fault of a single receipt, if the proof is about one."""
    receipt: int | None
    """Index of that receipt in the batch."""
    tx_hash: Hash32
    block_number: int


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """A batch as its operator committed it; `header` has the fields of Solidity's `BatchHeader`."""

    operator: Account
    number: int
    hash: Hash32
    header: Mapping[str, Any]
    state: BatchState
    tx_hash: Hash32
    block_number: int
    conviction: Conviction | None = None
    """Set if and only if `state` is VOID."""
    is_refunded: bool = False
    """Whether the vault has returned to the channels what a void batch collected."""


@dataclass(frozen=True, slots=True)
class PaidSpan:
    """The part of a channel's cumulative that a batch collects.

    `[start, until)` is paid; `[before, start)`, after the previously collected cumulative, is waived.
    """

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
class Demand:
    """A demand for one leaf of a batch. `key` is a receipt's index or the leaf's key in the other trees."""

    leaf_id: Hash32
    """`backend.domain.disputes.witnesses.leaf_id`."""
    operator: Account
    batch_hash: Hash32
    tree: Tree
    key: int
    challenger: Account
    bond: int  # wei
    deadline: int
    """Last unix second in which an answer is accepted."""
    deadline_block: int
    """Last block in which an answer is accepted; 0 if the market does not count blocks."""
    is_open: bool
    """Neither answered nor given up; its batch may be void."""
    block_number: int

    @property
    def credit(self) -> int:
        """Wei that an answer credits to the batch's operator: the bond without its burnt quarter."""
        return self.bond - self.bond // BURNT_DIVISOR

    def is_past(self, timestamp: int, block_number: int) -> bool:
        """Whether it is too late to answer in a block: the time and the block of the deadline have passed."""
        return timestamp > self.deadline and block_number > self.deadline_block


@dataclass(frozen=True, slots=True)
class DemandAnswer:
    """The answer to the demand for a leaf."""

    leaf_id: Hash32
    call: str
    """Call data of `answer` or `answerReceipt`, 0x-hex."""
    block_number: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A payout of an account's earnings from one operator, to the wallet that the account chose."""

    operator: Account
    account: Account
    wallet: Account
    amount: int
    cumulative: int
    """All that the account has claimed from this operator so far."""
    tx_hash: Hash32
    block_number: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Unsettled receipts of one channel. Receipts with a charge of zero never count."""

    channel_id: ChannelId
    num_receipts: int
    amount: int  # micro-units
    oldest_served_at: int  # unix seconds


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One of our own batches, recorded when its commit is queued."""

    operator: Account
    number: int
    data_digest: Hash32
    commit_tx: int | None
    """Row id of our newest commit transaction of this number; None if only others committed it."""
    is_released: bool
    """True once the commit failed or the batch was voided, and its receipts are unsettled again."""
