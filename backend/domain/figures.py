"""Figures about an operator's money and work, for monitoring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.live_agreement import LiveAgreement

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Pending:
    """Number of pending items, and the unix seconds since which the oldest is pending."""

    count: int
    oldest_at: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """State of an operator at one instant. Amounts in micro-units, instants in unix seconds."""

    unsettled: Pending
    """Receipts with a charge that are in no batch, signed or not, and that their channels' balances cover."""
    unsettled_units: int
    """Their charges, which are lost if the vouchers are never collected."""
    unfunded_units: int
    """Charges in no batch that exceed their channels' balances, and those behind them: the payers withdrew
    the balances, or moved them to another operator, before the charges were collected. Only a further deposit
    can pay them.
    """
    unsigned: Pending
    """Charges whose receipts are not signed yet."""
    reserved_units: int
    """Reserved for running answers."""
    open_batches: int
    """Committed batches that are not final."""
    float_units: int
    """Money that they collected, which can be claimed once they are final."""
    unrefunded_units: int
    """Money in voided batches whose refunds have not returned it to the channels yet. Until then it cannot be
    collected again.
    """
    newest_batch_at: int | None
    next_final_at: int | None
    """End of the first open dispute window."""
    open_demands: int
    """Unanswered demands about our batches."""
    demand_deadline: int | None
    """Deadline of the most urgent demand, after which its batch is void and the stake slashed."""
    stake_units: int
    outbox: Pending
    transactions: Mapping[str, Pending] = field(default_factory=dict)
    """Unfinished transactions by state."""
    relayed_wei: int = 0
    """Most that the transactions can cost which were signed for others in the last 24 hours."""
    jobs: Mapping[str, int] = field(default_factory=dict)
    """Fine-tuning jobs by state."""
    live_agreement: LiveAgreement = field(default_factory=LiveAgreement)
    """Of the answers that blocks sampled, all versions together."""
    receipts_to_sign: int = 0
    """Unsettled receipts of retired receipt keys, which settlement signs again."""
    indexed_block: int | None = None
    indexed_at: int | None = None
    """Timestamp of that block."""
