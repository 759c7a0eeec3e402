"""What batches credit to one account, entry by entry. Amounts in micro-units."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from backend.domain.money import UNIT
from backend.domain.settlement import BatchState

if TYPE_CHECKING:
    from backend.domain.ids import Account, DatanetId, Hash32, ReceiptId, VersionId

CONTRIBUTORS_PART = 3
"""Number of the first contributor's part, see `backend.domain.split.Parts`."""


class Role(StrEnum):
    """What an account is paid for by one part of a slice."""

    FEE = "fee"
    OPERATOR = "operator"
    CREATOR = "creator"
    CONTRIBUTOR = "contributor"
    POOL = "pool"
    """The contributors' part of a version without contributors, which the treasury receives."""


class EarningState(StrEnum):
    """State of what a batch credits to an account."""

    PENDING = "pending"
    """The batch is not final: it can still be voided."""
    FINAL = "final"
    """The batch is final, and the account can claim."""
    CLAIMED = "claimed"
    """A claim paid the account's balance after the batch, but for less than a token unit."""
    VOID = "void"
    """The batch was voided. It credits nothing; its receipts are settled again."""


@dataclass(frozen=True, slots=True)
class Earning:
    """One entry of a batch: what an account earns from one part of a slice of a receipt.

    `datanet` and `contribution` (its index in the datanet) are None unless the part is a contributor's.
    """

    receipt: int  # index in the batch
    slice: int  # index in the receipt
    part: int
    receipt_id: ReceiptId
    version_id: VersionId
    datanet: DatanetId | None
    contribution: int | None
    amount: int

    @property
    def place(self) -> int:
        """Position among the account's entries in the batch."""
        return self.receipt << 32 | self.slice << 16 | self.part

    @property
    def role(self) -> Role:
        return role_of(self.part, has_contributors=self.datanet is not None)


def role_of(part: int, *, has_contributors: bool) -> Role:
    """The role that a part pays. `has_contributors`: whether the slice's version does."""
    if part < CONTRIBUTORS_PART:
        return (Role.FEE, Role.OPERATOR, Role.CREATOR)[part]
    return Role.CONTRIBUTOR if has_contributors else Role.POOL


ContributionKey: TypeAlias = "tuple[VersionId, DatanetId, int]"
"""A version, a datanet, and the index of a contribution in it."""


@dataclass(frozen=True, slots=True)
class ContributionEarning:
    """What batches of one operator credit for a contribution through a version."""

    version_id: VersionId
    datanet: DatanetId
    contribution: int
    account: Account
    amount: int

    @property
    def key(self) -> ContributionKey:
        return self.version_id, self.datanet, self.contribution


@dataclass(frozen=True, slots=True)
class Credit:
    """What one batch credits to one account."""

    account: Account
    operator: Account
    number: int
    """Number of the batch."""
    batch_hash: Hash32
    credited_at: int
    """Unix seconds of the batch's commit."""
    num_entries: int
    amount: int
    balance: int
    """The account's balance with the operator after the batch: its leaf in the balances tree."""


def earning_state(batch: BatchState, balance: int, claimed: int) -> EarningState:
    """State of a credit. `balance`: the account's after the batch; `claimed`: by the account so far.

    Claims pay a balance in whole token units, so the oldest credits are paid first.
    """
    if batch is BatchState.VOID:
        return EarningState.VOID
    if batch is BatchState.COMMITTED:
        return EarningState.PENDING
    is_claimed = 0 < claimed >= balance // UNIT * UNIT
    return EarningState.CLAIMED if is_claimed else EarningState.FINAL


@dataclass(frozen=True, slots=True)
class EarningFilter:
    """Which entries of a batch are wanted; None: all."""

    versions: frozenset[VersionId] | None = None
    contribution: tuple[DatanetId, int] | None = None
    """Datanet, and index of the contribution in it."""

    @property
    def is_open(self) -> bool:
        return self.versions is None and self.contribution is None

    def admits(self, earning: Earning) -> bool:
        is_version = self.versions is None or earning.version_id in self.versions
        return is_version and self.contribution in (None, (earning.datanet, earning.contribution))


class EarningsBy(StrEnum):
    """What entries are summed by. A day is the UTC day of the batch's commit."""

    DAY = "day"
    ADAPTER = "adapter"
    CONTRIBUTION = "contribution"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class EarningSum:
    """Sum of entries of one batch with the same key."""

    batch_hash: Hash32
    key: tuple[str | int | None, ...]
    """By adapter, a version id. By contribution, a datanet and the index in it; both None for other roles.
    Else empty: day and operator are the batch's.
    """
    num_entries: int
    amount: int
