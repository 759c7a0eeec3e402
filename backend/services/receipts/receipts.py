"""Receipts with their contributors and the state of their batches, and usage by day."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.days import DAY_SECONDS, EPOCH
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.ids import ChargeId, ReceiptId
from backend.domain.money import PPM
from backend.domain.rules import from_position

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, DatanetId, Hash32, VersionId
    from backend.domain.receipt import Share
    from backend.domain.serving import DayUsage, StoredCharge, StoredReceipt
    from backend.domain.settlement import BatchState
    from backend.ports.chain_view import ChainView

MAX_USAGE_DAYS = 366


@dataclass(frozen=True, slots=True)
class NamedShare:
    """A share with its datanet and contributor; None where the indexed chain does not have them (yet)."""

    share: Share
    datanet: DatanetId | None
    contributor: Account | None

    @property
    def contribution(self) -> int:
        """Index of the contribution in its datanet."""
        return from_position(self.share.position)[1]


@dataclass(frozen=True, slots=True)
class NamedSlice:
    version_id: VersionId
    weight_ppm: int
    shares: tuple[NamedShare, ...]


@dataclass(frozen=True, slots=True)
class ReceiptView:
    stored: StoredReceipt
    slices: tuple[NamedSlice, ...]
    batch_state: BatchState | None
    """None until the receipt's batch is confirmed."""

    charge: StoredCharge | None = None
    """The charge that the receipt followed; None if the answer was charged by its receipt."""

    def weights(self) -> list[tuple[Account | None, int]]:
        """Each contributor's share of the whole answer in ppm, rounded down; largest first."""
        sums: Counter[Account | None] = Counter()
        for part in self.slices:
            for named in part.shares:
                sums[named.contributor] += part.weight_ppm * named.share.ppm
        ordered = sorted(sums.items(), key=lambda item: (-item[1], item[0] or ""))
        return [(account, total // PPM) for account, total in ordered]


class ReceiptPending(Conflict):
    """The answer was charged, and its receipt is signed by `details["receipt_by"]` (unix seconds)."""


class Receipts:
    def __init__(self, db: Database) -> None:
        self._db = db

    def find(self, number: Hash32) -> ReceiptView | StoredCharge:
        """A receipt by its id or its charge's, or the charge while its receipt is pending; for any caller:
        settlement publishes all of it except the salt. Errors: `NotFound`.
        """
        with self._db.read() as tx:
            charge = tx.charges.get(ChargeId(number)) or tx.charges.of_receipt(ReceiptId(number))
            if charge is not None and charge.receipt is None:
                return charge
            known = None if charge is None else charge.receipt
            stored = tx.receipts.get(known or ReceiptId(number))
            if stored is None:
                raise NotFound(f"No receipt {number} here.", param="id")
            return ReceiptView(
                stored, _named_slices(tx.chain, stored), _batch_state(tx.chain, stored), charge
            )

    def get(self, number: Hash32) -> ReceiptView:
        """As `find`. Errors: `ReceiptPending` too."""
        found = self.find(number)
        if isinstance(found, ReceiptView):
            return found
        by = found.signed.charge.receipt_by
        raise ReceiptPending(
            f"The receipt of charge {number} is not signed yet.", param="id", details={"receipt_by": by}
        )

    def resolve(self, number: Hash32) -> ReceiptId:
        """The id of a charge's receipt; any other id stays as it is. Errors: `ReceiptPending`."""
        with self._db.read() as tx:
            is_charge = tx.charges.get(ChargeId(number)) is not None
        return self.get(number).stored.id if is_charge else ReceiptId(number)

    def page(self, payer: Account, before: int | None, limit: int) -> Sequence[StoredReceipt]:
        """The payer's receipts, newest first, with a sequence below `before`."""
        with self._db.read() as tx:
            return tx.receipts.page(payer, before, limit)

    def usage(self, payer: Account, first: date, last: date) -> Sequence[DayUsage]:
        """Usage by day and model, both days included. Raises InvalidInput for more than a year."""
        num_days = (last - first).days + 1
        if not 1 <= num_days <= MAX_USAGE_DAYS:
            raise InvalidInput(
                f"The range must have 1 to {MAX_USAGE_DAYS} days, not {num_days}.", param="first"
            )
        since = (first - EPOCH).days * DAY_SECONDS
        with self._db.read() as tx:
            return tx.receipts.usage(payer, since, since + num_days * DAY_SECONDS)


def _named_slices(chain: ChainView, stored: StoredReceipt) -> tuple[NamedSlice, ...]:
    return tuple(
        NamedSlice(
            part.version_id,
            part.weight_ppm,
            tuple(_named_share(chain, part.version_id, share) for share in part.shares),
        )
        for part in stored.signed.slices
    )


def _named_share(chain: ChainView, version: VersionId, share: Share) -> NamedShare:
    record = chain.version(version)
    number, index = from_position(share.position)
    if record is None or number >= len(record.snapshots):
        return NamedShare(share, None, None)
    snapshot = chain.snapshot(record.snapshots[number])
    contributor = chain.contributor_of(record.snapshots[number], index)
    return NamedShare(share, snapshot.datanet if snapshot else None, contributor)


def _batch_state(chain: ChainView, stored: StoredReceipt) -> BatchState | None:
    batch = None if stored.batch is None else chain.numbered_batch(stored.operator, stored.batch)
    return None if batch is None else batch.state
