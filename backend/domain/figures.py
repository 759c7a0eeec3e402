"""Where an operator's money and work stand at an instant: what those who run an installation watch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Pending:
    """Things that wait: how many, and since when the oldest does, in unix seconds; None where none does."""

    count: int
    oldest_at: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Amounts in micro-units of the payment token."""

    unsettled: Pending
    """Receipts with a charge that are in no batch yet."""
    unsettled_units: int
    """What they charge: what is lost if their vouchers are never used."""
    reserved_units: int
    """Kept for answers that run."""
    open_batches: int
    """Committed and not final."""
    float_units: int
    """What they collected: earned, and not to be claimed before they are final."""
    newest_batch_at: int | None
    next_final_at: int | None
    """When the first open dispute window ends."""
    open_demands: int
    """On our batches, that wait for an answer of ours."""
    demand_deadline: int | None
    """Of the most urgent one: unanswered then, its batch is void and the stake slashed."""
    stake_units: int
    outbox: Pending
    transactions: Mapping[str, Pending] = field(default_factory=dict)
    """By state, those that are not over."""
    jobs: Mapping[str, int] = field(default_factory=dict)
    """Fine-tuning jobs by state."""
    indexed_block: int | None = None
    indexed_at: int | None = None
    """That block's own instant."""
