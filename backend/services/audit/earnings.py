"""Entries of batches with the receipts, versions and contributions that they pay for.

When the auditor finds a batch right, it stores those of the accounts that signed in here. Entries of other
accounts are read from the batch's data when they are wanted.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from backend.domain.batch import Header, entries_of, tree_of_entries
from backend.domain.earnings import CONTRIBUTORS_PART, ContributionEarning, Credit, Earning
from backend.domain.errors import Conflict, Unavailable
from backend.domain.hashing import receipt_id, to_hash
from backend.domain.rules import Rules, from_position
from backend.domain.settlement import BatchState
from backend.services.audit.cases import MAX_CACHED_BYTES
from backend.services.audit.published import memory_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.batch import Batch, OperatorLedger
    from backend.domain.earnings import ContributionKey
    from backend.domain.entries import Entries, Entry
    from backend.domain.ids import Account, DatanetId, Hash32, ReceiptId, VersionId
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain_view import ChainView
    from backend.services.audit.cases import Cases
    from backend.services.background import Background

MAX_ENTRIES = 600_000
"""Entries of a batch that are in memory or stored one by one. Batches of this software have fewer in all."""


@dataclass
class TooManyEntries(Unavailable):
    """An account has more entries in one batch than are listed. Its operator can do that to any account."""

    amount: int = 0
    """Sum of the entries, in micro-units."""


def credits_of(
    tx: UnitOfWork, batch: Batch, header: Header, ledger: OperatorLedger
) -> list[tuple[Credit, list[Earning]]]:
    """What a batch that is right credits to each account that signed in here, with the entries; not of those
    accounts with which these would be more than `MAX_ENTRIES`.

    `ledger`: the one after the batch.
    """
    lookup = Lookup(tx.chain, batch.receipts)
    found, num_left = [], MAX_ENTRIES
    for account in tx.earnings.known(batch.entries.accounts):
        if (count := batch.entries.num_of(account)) > num_left:
            continue
        num_left -= count
        entries = list(batch.entries.of(account))
        credit = Credit(
            account=account,
            operator=header.operator,
            number=header.number,
            batch_hash=ledger.hash,
            credited_at=header.committed_at,
            num_entries=len(entries),
            amount=sum(entry.value for entry in entries),
            balance=ledger.balances[account],
        )
        found.append((credit, [lookup.earning(entry) for entry in entries]))
    return found


def earned_by_contribution(chain: ChainView, batch: Batch) -> list[ContributionEarning]:
    """What a batch credits for each contribution through each version."""
    lookup = Lookup(chain, batch.receipts)
    found: dict[ContributionKey, ContributionEarning] = {}
    for entry in batch.entries:
        slice_ = batch.receipts[entry.receipt].slices[entry.slice]
        if entry.part < CONTRIBUTORS_PART or not slice_.shares:
            continue
        position = slice_.shares[entry.part - CONTRIBUTORS_PART].position
        datanet, index = lookup.contribution(slice_.version_id, position)
        if datanet is not None:
            key = slice_.version_id, datanet, index
            before = found[key].amount if key in found else 0
            found[key] = ContributionEarning(*key, entry.account, before + entry.value)
    return list(found.values())


class Lookup:
    """What the entries of one batch pay for, from its receipts and the registries. Caches both."""

    def __init__(self, chain: ChainView, receipts: Sequence[SignedReceipt]) -> None:
        self._chain, self._receipts = chain, receipts
        self._ids: dict[int, ReceiptId] = {}
        self._datanets: dict[tuple[VersionId, int], DatanetId | None] = {}

    def earning(self, entry: Entry) -> Earning:
        slice_ = self._receipts[entry.receipt].slices[entry.slice]
        datanet = contribution = None
        if entry.part >= CONTRIBUTORS_PART and slice_.shares:
            position = slice_.shares[entry.part - CONTRIBUTORS_PART].position
            datanet, contribution = self.contribution(slice_.version_id, position)
        if entry.receipt not in self._ids:
            self._ids[entry.receipt] = receipt_id(self._receipts[entry.receipt].receipt)
        return Earning(
            receipt=entry.receipt,
            slice=entry.slice,
            part=entry.part,
            receipt_id=self._ids[entry.receipt],
            version_id=slice_.version_id,
            datanet=datanet,
            contribution=contribution,
            amount=entry.value,
        )

    def contribution(self, version: VersionId, position: int) -> tuple[DatanetId | None, int]:
        """Datanet, and index in it, of the contribution at a position of a version record."""
        number, index = from_position(position)
        if (version, number) not in self._datanets:
            record = self._chain.version(version)
            snapshot = None if record is None else self._chain.snapshot(record.snapshots[number])
            self._datanets[version, number] = None if snapshot is None else snapshot.datanet
        return self._datanets[version, number], index


class PublishedEntries:
    """Entries from the public data of batches. The latest batch is cached: pages follow each other."""

    def __init__(self, db: Database, cases: Cases, background: Background) -> None:
        self._db, self._cases, self._background = db, cases, background
        self._latest: tuple[Hash32, tuple[SignedReceipt, ...], Entries] | None = None

    def of(self, batch: CommittedBatch, account: Account) -> list[Earning]:
        """The account's entries, of a tree with the root that the chain has.

        Errors: as `reading`; `Conflict` if the data makes another tree; `TooManyEntries`.
        """
        latest = self._latest
        if latest is not None and latest[0] == batch.hash:
            return self._of(account, *latest[1:])
        with self.reading(batch) as receipts:
            with self._db.read() as tx:
                entries = _entries(tx.chain, batch, receipts)
            if memory_of(receipts) <= MAX_CACHED_BYTES:
                self._latest = batch.hash, receipts, entries
            return self._of(account, receipts, entries)

    def _of(self, account: Account, receipts: Sequence[SignedReceipt], entries: Entries) -> list[Earning]:
        if (count := entries.num_of(account)) > MAX_ENTRIES:
            text = f"{account} has {count} entries in one batch, too many to list"
            raise TooManyEntries(text, amount=sum(entry.value for entry in entries.of(account)))
        with self._db.read() as tx:
            lookup = Lookup(tx.chain, receipts)
            return [lookup.earning(entry) for entry in entries.of(account)]

    @contextmanager
    def reading(self, batch: CommittedBatch) -> Iterator[tuple[SignedReceipt, ...]]:
        """Receipts of the batch, in order, while they are used as `Cases.reading` says. Data that the store
        lacks is fetched in the background; that of a void batch, which credits nothing, is not.

        Errors: `Unavailable` if no published data is the batch's, it is still being fetched, or too large.
        """
        header, text = Header.from_chain(batch.header), "no operator serves its data"
        if not self._cases.is_stored(header) and batch.state is not BatchState.VOID:
            # Urgent: a request waits for one batch at a time.
            work = self._background.start(batch.hash, partial(self._fetch, header), is_urgent=True)
            if (error := self._background.error(work, self._background.clock())) is not None:
                text = error.message
        if self._cases.is_stored(header):
            with self._cases.reading(header) as (found, reason):
                if found is not None:
                    yield found
                    return
            text = reason.message if reason else text
        raise Unavailable(f"the entries of batch {batch.number} of {batch.operator} cannot be read: {text}")

    def _fetch(self, header: Header) -> bool:
        self._cases.fetch(header)
        return True


def _entries(chain: ChainView, batch: CommittedBatch, receipts: Sequence[SignedReceipt]) -> Entries:
    """Errors: `BadReceipt`, `Conflict`, `Unavailable`."""
    header = Header.from_chain(batch.header)
    terms = chain.parameter_set(header.parameter_set)
    if terms is None:
        raise Unavailable(f"parameter set {header.parameter_set} is not indexed yet")
    entries = entries_of(batch.operator, terms, receipts, Rules(chain))
    tree = tree_of_entries(entries)
    if (to_hash(tree.root), tree.count) != (header.entries_root, header.entries_count):
        raise Conflict(f"batch {batch.number} of {batch.operator} has other entries than its data makes")
    return entries
