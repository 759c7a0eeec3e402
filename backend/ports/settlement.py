"""What settlement asks of the database and of the keys. The serving tables implement the receipts' side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.batch import Ledger
    from backend.domain.ids import Account, ChannelId, Hash32, ReceiptId
    from backend.domain.receipt import SignedReceipt
    from backend.domain.voucher import ClientVoucher
    from backend.ports.chain import ChainView, Signer, Transactions


@dataclass(frozen=True, slots=True)
class Backlog:
    """Receipts of one channel that are in no batch yet. Receipts with a charge of zero never count."""

    channel_id: ChannelId
    num_receipts: int
    oldest_served_at: int  # unix seconds


class SettlementReceipts(Protocol):
    """`tx.receipts`, as settlement uses it. A receipt is *unsettled* while it is assigned to no batch."""

    def backlogs(self, operator: Account) -> Sequence[Backlog]:
        """Channels of this operator with unsettled receipts, the one with the oldest such receipt first.

        Below a channel's collected line nothing counts: it was waived.
        """
        ...

    def unsettled(self, channel: ChannelId, after: int, limit: int) -> Sequence[SignedReceipt]:
        """The first `limit` unsettled receipts of the channel whose `cumulative` is above `after`, rising."""
        ...

    def assign(self, operator: Account, batch: int, receipts: Sequence[ReceiptId]) -> None:
        """Mark receipts as being in this batch. `Conflict` if one of them already is in another."""
        ...

    def traces(self, operator: Account, batch: int, limit: int) -> Sequence[str]:
        """Of the answers in this batch, as far as they were recorded."""
        ...

    def adopt(self, operator: Account, batch: int, receipts: Sequence[ReceiptId]) -> int:
        """As `assign`, of those receipts only that are known here and unsettled; how many."""
        ...

    def release(self, operator: Account, batch: int) -> int:
        """Make the batch's receipts unsettled again; how many. None is no error."""
        ...


class SettlementVouchers(Protocol):
    """`tx.channels`, as settlement uses it."""

    def vouchers(self, channel: ChannelId) -> Sequence[ClientVoucher]:
        """The latest that each signer sent for this channel, verified."""
        ...


class SessionKeys(Protocol):
    """The session keys that payers let this gateway hold."""

    def held(self, key: Account) -> Signer | None:
        """None if this installation does not hold it."""
        ...


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One of our own batches, from the decision to commit it."""

    operator: Account
    number: int
    data_digest: Hash32
    commit_tx: int | None
    """Row of our newest commit of this number among our transactions; None if only others committed it."""
    is_released: bool
    """True once the commit failed or the batch was voided, and its receipts are unsettled again."""


class Batches(Protocol):
    """`tx.batches`: our own batches, and the mirrored ledgers of everybody's."""

    def latest(self, operator: Account) -> BatchRecord | None:
        """The one with the highest number."""
        ...

    def get(self, operator: Account, number: int) -> BatchRecord | None: ...

    def kept(self, operator: Account) -> set[int]:
        """Numbers of those that are not released."""
        ...

    def put(self, record: BatchRecord) -> None:
        """Insert, or replace the one of the same number."""
        ...

    def ledger(self, operator: Account, batch_hash: Hash32) -> Ledger | None:
        """The ledger after this batch; None if it is not mirrored."""
        ...

    def save_ledger(self, operator: Account, ledger: Ledger) -> None:
        """Idempotent."""
        ...

    def prune_ledgers(self, operator: Account, below: int) -> None:
        """Forget the ledgers after batches with a number below this."""
        ...


class SettlementTx(Protocol):
    """The unit of work of the settler."""

    @property
    def chain(self) -> ChainView: ...
    @property
    def transactions(self) -> Transactions: ...
    @property
    def receipts(self) -> SettlementReceipts: ...
    @property
    def channels(self) -> SettlementVouchers: ...
    @property
    def batches(self) -> Batches: ...


class MirrorTx(Protocol):
    """The unit of work of auditor and claims."""

    @property
    def chain(self) -> ChainView: ...
    @property
    def transactions(self) -> Transactions: ...
    @property
    def batches(self) -> Batches: ...
