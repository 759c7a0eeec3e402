"""What serving asks of the database and of the keys: channels' lines, reservations, vouchers, receipts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backend.ports.chain import SenderTx
from backend.ports.settlement import SessionKeys

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import date, datetime

    from backend.domain.figures import Figures
    from backend.domain.ids import Account, ChannelId, Hash32, ReceiptId, VersionId
    from backend.domain.receipt import SignedReceipt
    from backend.domain.voucher import ClientVoucher
    from backend.ports.auth import AuthRepository
    from backend.ports.chain import ChainView, Transactions
    from backend.ports.denials import PolicyRepository


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money of a channel kept for one running answer or one job, micro-units. Past `expires_at` it does not
    count; a job's has no such instant, and is there until the job is over.
    """

    id: str
    channel_id: ChannelId
    key_id: str | None
    amount: int
    expires_at: datetime | None

    def is_over(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """A receipt as it is stored. `salt` is for the payer only; `trace`: the span of its answer, if any."""

    id: ReceiptId
    operator: Account
    payer: Account
    signed: SignedReceipt
    salt: Hash32
    key_id: str | None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """`sequence` rises in the order of storing and serves as cursor; `batch` is None while unsettled."""

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
    """What a payer's answers of one day (UTC) by one model came to. `spend` in micro-units."""

    day: date
    slices_hash: Hash32
    versions: tuple[tuple[VersionId, int], ...]
    """Of the model, with their weights in ppm."""
    num_answers: int
    prompt_tokens: int
    completion_tokens: int
    spend: int


class ChannelRepository(Protocol):
    """`tx.channels`, as serving uses it. Amounts in micro-units."""

    def lock(self, *channels: ChannelId) -> None:
        """Until we commit nobody else changes these channels' lines, reservations and keys' spending."""
        ...

    def charged(self, channels: Collection[ChannelId]) -> Mapping[ChannelId, int]:
        """Where lines end; those that never began are left out."""
        ...

    def advance(self, lines: Mapping[ChannelId, int]) -> None:
        """Where lines that are locked end now."""
        ...

    def reservations(self, channels: Collection[ChannelId]) -> Sequence[Reservation]:
        """All of these channels, expired ones too."""
        ...

    def add_reservations(self, reservations: Sequence[Reservation]) -> None: ...

    def drop_reservations(self, reservation_ids: Sequence[str]) -> None:
        """Unknown ones are ignored."""
        ...

    def put_voucher(self, voucher: ClientVoucher) -> None:
        """Keep it as this signer's voucher of the channel."""
        ...

    def vouchers(self, *channels: ChannelId) -> Sequence[ClientVoucher]:
        """The latest of each signer."""
        ...

    def add_held_key(self, channel: ChannelId, key: Account) -> None: ...

    def held_keys(self, channel: ChannelId) -> Sequence[Account]:
        """Session keys that the gateway holds for the channel, newest first."""
        ...

    def keys_held(self, channels: Collection[ChannelId]) -> Sequence[tuple[ChannelId, Account]]:
        """All of them, each with its channel."""
        ...


class ReceiptRepository(Protocol):
    """`tx.receipts`, as serving uses it."""

    def add(self, *receipts: NewReceipt) -> None: ...

    def get(self, receipt: ReceiptId) -> StoredReceipt | None: ...

    def page(self, payer: Account, before: int | None, limit: int) -> Sequence[StoredReceipt]:
        """Newest first, those with a `sequence` below `before`."""
        ...

    def usage(self, payer: Account, since: int, until: int) -> Sequence[DayUsage]:
        """Of what was served from `since` to before `until`, unix seconds; by day and then by model."""
        ...


class HeldKeys(SessionKeys, Protocol):
    """The encrypted keystore of session keys."""

    def create(self) -> Account:
        """A new random key, stored before this returns."""
        ...


class CatalogueTx(Protocol):
    @property
    def chain(self) -> ChainView: ...


class StatedLicences(Protocol):
    def stated_licences(self, versions: Collection[VersionId]) -> Mapping[VersionId, str]:
        """SPDX expressions of the adapters among them that were brought here from elsewhere."""
        ...


class OriginsTx(CatalogueTx, Protocol):
    @property
    def training(self) -> StatedLicences: ...


class ModelsTx(CatalogueTx, Protocol):
    @property
    def policy(self) -> PolicyRepository: ...


class RegistryTx(CatalogueTx, Protocol):
    @property
    def transactions(self) -> Transactions: ...


class OffersTx(ModelsTx, SenderTx, Protocol):
    pass


class MembershipTx(CatalogueTx, SenderTx, Protocol):
    def figures(self, operator: Account, now: datetime) -> Figures: ...


class ChannelTx(Protocol):
    @property
    def chain(self) -> ChainView: ...
    @property
    def channels(self) -> ChannelRepository: ...


class WaiverTx(ChannelTx, Protocol):
    @property
    def receipts(self) -> UnsettledReceipts: ...


class UnsettledReceipts(Protocol):
    def unsettled(self, channel: ChannelId, after: int, limit: int) -> Sequence[SignedReceipt]:
        """The first `limit` receipts in no batch whose `cumulative` is above `after`, rising."""
        ...


class ProofTx(Protocol):
    @property
    def chain(self) -> ChainView: ...
    @property
    def receipts(self) -> ReceiptRepository: ...


class ServingTx(ChannelTx, Protocol):
    @property
    def auth(self) -> AuthRepository: ...
    @property
    def receipts(self) -> ReceiptRepository: ...


class DepositTx(ChannelTx, Protocol):
    @property
    def transactions(self) -> Transactions: ...
