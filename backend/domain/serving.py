"""Records of served answers: reservations, stored receipts, and usage by day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from backend.domain.ids import ZERO_HASH

if TYPE_CHECKING:
    from datetime import date, datetime

    from backend.domain.ids import Account, ChannelId, ChargeId, Hash32, ReceiptId, VersionId
    from backend.domain.receipt import Attributed, Charge, Receipt, SignedCharge, SignedReceipt


@dataclass(frozen=True, slots=True)
class Reservation:
    """Part of a channel's balance, in micro-units, reserved for one running answer or one training job.

    An answer's reservation does not count past `expires_at`. A job's has None and lasts until the job ends.
    """

    id: str
    channel_id: ChannelId
    key_id: str | None
    amount: int
    expires_at: datetime | None

    def is_over(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class Waiver(NamedTuple):
    """Interval of a channel's cumulative whose answers were convicted: nothing behind it can be collected
    until the payer waives it.
    """

    start: int
    until: int


NO_WAIVER = Waiver(0, 0)


@dataclass(frozen=True, slots=True)
class Line:
    """A channel's cumulative charge, and what has to be waived."""

    charged: int
    waiver: Waiver


UNKNOWN_SALT = ZERO_HASH
"""Of a receipt that was lost and read from a batch: only its payer has the salt, from the answer."""


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """A receipt to store. `signer` is the receipt key that signed it. `salt` is for the payer only.

    `trace`: span of the answer, if it was recorded.
    """

    id: ReceiptId
    operator: Account
    payer: Account
    signed: SignedReceipt
    signer: Account
    salt: Hash32
    key_id: str | None
    trace: str | None = None

    @property
    def interval(self) -> Receipt:
        return self.signed.receipt


@dataclass(frozen=True, slots=True)
class NewCharge:
    """A charge to store, as `NewReceipt`. Its receipt has the attribution `fallback` unless a better one is
    computed by the charge's `receipt_by`.
    """

    id: ChargeId
    operator: Account
    payer: Account
    signed: SignedCharge
    fallback: Attributed
    signer: Account
    salt: Hash32
    key_id: str | None
    trace: str | None = None

    @property
    def interval(self) -> Charge:
        return self.signed.charge


@dataclass(frozen=True, slots=True)
class StoredCharge:
    """A charge from the database. `receipt`: its receipt's id; None until that is signed. `attributed`: the
    receipt's attribution, until then the fallback.
    """

    id: ChargeId
    operator: Account
    payer: Account
    signed: SignedCharge
    attributed: Attributed
    salt: Hash32
    receipt: ReceiptId | None


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """A receipt from the database. `sequence` rises in the order of storing and serves as cursor of a page;
    `batch` is None while the receipt is unsettled.
    """

    sequence: int
    id: ReceiptId
    operator: Account
    payer: Account
    signed: SignedReceipt
    salt: Hash32
    key_id: str | None
    batch: int | None


@dataclass(frozen=True, slots=True)
class DayUsage:
    """A payer's usage of one model on one day (UTC). `spend` in micro-units."""

    day: date
    slices_hash: Hash32
    versions: tuple[tuple[VersionId, int], ...]
    """Adapter versions of the model with their weights in ppm."""
    num_answers: int
    prompt_tokens: int
    completion_tokens: int
    spend: int
