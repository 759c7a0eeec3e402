"""From signed receipts to a final batch, one step at a time.

    receipts -> build -> simulate -> publish the data -> [enqueue the commit, assign the receipts] -> finalise

Only the bracket changes the database, in one unit of work; all before it may be done again. So the process
may die anywhere, and the next `run_once` goes on from what database and chain say.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from backend.domain.batch import Batch, build
from backend.domain.batch_data import FILE_NAME, BatchName, encode
from backend.domain.chain import BatchState, Reverted, TransactionState
from backend.domain.content import cid_digest
from backend.domain.hashing import receipt_id, to_hash
from backend.domain.rules import BadReceipt, Rules
from backend.ports.settlement import BatchRecord
from backend.services.attempt import enqueue_again
from backend.services.audit import standing
from backend.services.take import Take, select

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from backend.domain.batch import Ledger
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId, Hash32
    from backend.ports.chain import Chain
    from backend.ports.settlement import SessionKeys, SettlementTx
    from backend.ports.storage import BlobStore
    from backend.services.audit import Auditor


log = logging.getLogger(__name__)

_OF_THE_WHOLE_BATCH = {
    "ParentMismatch",
    "NotCurrentSet",
    "ParameterSetUnknown",
    "CommitsArePaused",
    "StakeTooLow",
    "RingFull",
}
"""Reverts of a commit that leaving channels out would not cure."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A batch is due once a receipt is `seconds` old, or `receipts` wait; it has at most `receipts`."""

    seconds: float
    receipts: int


class Step(StrEnum):
    IDLE = "idle"
    """Nothing is due, or nothing that is due can be settled: see `skipped`."""
    WAITING = "waiting"
    """A commit is under way."""
    REFUSED = "refused"
    """The chain would not take the batch now: see `reason`."""
    COMMITTING = "committing"
    """A new batch is on its way."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one `run_once` did."""

    step: Step
    number: int | None = None
    """Of the batch under way."""
    reason: str = ""
    skipped: Mapping[ChannelId, str] = field(default_factory=dict)
    """Channels whose due receipts could not be settled now, and why."""


class Fate(StrEnum):
    OPEN = "open"
    STANDS = "stands"
    LOST = "lost"
    """Its commit failed, another batch took its number, or it was voided."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A batch that the chain would take, ready to be published and committed."""

    batch: Batch
    files: Mapping[str, bytes]
    """The folder with its data."""
    digest: Hash32
    """Of the folder's CID."""
    arguments: tuple[Any, ...]
    """Of `Settlement.commit`."""


@dataclass(frozen=True)
class Settler:
    """Settles one operator's receipts, one batch in flight at a time.

    `begin` commits, `read` gives a consistent view without locks; `keys` are the session keys that payers let
    this gateway hold; `vault` and `settlement` are the EIP-712 domains of the contracts; `clock` gives unix
    seconds, the later of wall clock and newest block. The operator's own account sends.
    """

    operator: Account
    begin: Callable[[], AbstractContextManager[SettlementTx]]
    read: Callable[[], AbstractContextManager[SettlementTx]]
    chain: Chain
    blobs: BlobStore
    auditor: Auditor
    keys: SessionKeys
    vault: TypedDomain
    settlement: TypedDomain
    pace: Pace
    clock: Callable[[], int]
    thaw_seconds: int
    """The vault's: how long what a session key signed stays collectable after its end."""

    def run_once(self, *, is_forced: bool = False) -> Progress:
        """Finalise what is due, settle the fate of the batch in flight, or commit the next one.

        `is_forced` commits what there is, due or not. Errors: `WrongBatch` if an own batch does not stand up
        to the audit: nothing is built on it. `Unavailable` if chain or store cannot be reached: run again.
        """
        self.finalise()
        with self.begin() as tx:
            number = self._in_flight(tx)
        if number is not None:
            return Progress(Step.WAITING, number)
        ledger = self.auditor.follow(self.operator)
        with self.read() as tx:
            if not (is_forced or self._is_due(tx)):
                return Progress(Step.IDLE)
            over_before = self.clock() - self.thaw_seconds
            takes, skipped = select(tx, self.operator, ledger, self.keys, self.pace.receipts, over_before)
            offer = self._offer(tx, ledger, takes, skipped)
        if isinstance(offer, Progress):
            return offer
        step = Step.COMMITTING if self._commit(offer) else Step.WAITING
        return Progress(step, offer.batch.number, skipped=skipped)

    def finalise(self) -> int | None:
        """Enqueue the newest batch whose dispute window is over, and with it all before it; its number."""
        with self.read() as tx:
            committed = [b for b in tx.chain.batches(self.operator) if b.state is BatchState.COMMITTED]
        due = [batch for batch in committed if int(batch.header["finalAt"]) <= self.clock()]
        if not due:
            return None
        call, header = ("Settlement", "finalise"), dict(due[-1].header)
        try:
            self.chain.prepare(*call, header, sender=self.operator)
        except Reverted as early:
            # The node's clock is behind ours, or somebody was faster: the next run asks again.
            log.info("batch %d is not finalised now: %s", due[-1].number, early)
            return None
        with self.begin() as tx:
            enqueue_again(tx.transactions, self.operator, call, [header], f"finalise:{due[-1].hash}")
        return due[-1].number

    def _in_flight(self, tx: SettlementTx) -> int | None:
        """Number of the batch under way. Receipts of lost batches are unsettled again afterwards."""
        record = tx.batches.latest(self.operator)
        while record is not None:
            fate = Fate.LOST if record.is_released else _fate(tx, record)
            if fate is not Fate.LOST:
                return record.number if fate is Fate.OPEN else None
            if not record.is_released:
                tx.receipts.release(self.operator, record.number)
                tx.batches.put(replace(record, is_released=True))
            record = tx.batches.get(self.operator, record.number - 1)
        return None

    def _is_due(self, tx: SettlementTx) -> bool:
        backlogs = tx.receipts.backlogs(self.operator)
        if sum(backlog.num_receipts for backlog in backlogs) >= self.pace.receipts:
            return True
        return any(self.clock() - b.oldest_served_at >= self.pace.seconds for b in backlogs)

    def _offer(
        self,
        tx: SettlementTx,
        ledger: Ledger,
        takes: dict[ChannelId, Take],
        skipped: dict[ChannelId, str],
    ) -> Offer | Progress:
        """A batch of all takes that rules and chain accept; the others move from `takes` to `skipped`.

        A revert that names no channel is narrowed down by halves, so that one channel never stops the others.
        """
        terms = tx.chain.latest_parameter_set()
        if terms is None:
            return Progress(Step.REFUSED, reason="the parameters are not indexed yet")
        rules = Rules(tx.chain)
        aside: dict[ChannelId, Take] = {}
        while takes or aside:
            if not takes:
                takes, aside = aside, {}
            receipts = [signed for channel in sorted(takes) for signed in takes[channel].receipts]
            try:
                offer = self._prepare(build(self.operator, ledger, terms, receipts, rules), takes)
            except BadReceipt as bad:
                _cut(takes, skipped, bad, receipts[bad.details["index"]].receipt.channel_id)
            except Reverted as refused:
                if refused.error in _OF_THE_WHOLE_BATCH:
                    return Progress(Step.REFUSED, ledger.number + 1, str(refused), skipped)
                _narrow(takes, aside, skipped, refused)
            else:
                skipped.update(dict.fromkeys(aside, "the chain refused the batch with it: left for the next"))
                return offer
        return Progress(Step.IDLE, skipped=skipped)

    def _prepare(self, batch: Batch, takes: Mapping[ChannelId, Take]) -> Offer:
        """Errors: `Reverted` if the chain would refuse it now."""
        name = BatchName(self.settlement.chain_id, self.settlement.contract, self.operator, batch.number)
        files = {FILE_NAME: encode(name, batch.receipts)}
        digest = cid_digest(self.blobs.folder_cid(files))
        collections = [takes[span.channel_id].collection(span, self.vault) for span in batch.spans]
        offer = Offer(batch, files, digest, (_commitment(batch, digest), collections))
        self.chain.prepare("Settlement", "commit", *offer.arguments, sender=self.operator)
        return offer

    def _commit(self, offer: Offer) -> bool:
        """Publish, then enqueue and assign; False if another settler was faster."""
        self.blobs.add_folder(offer.files)
        ids = [receipt_id(signed.receipt) for signed in offer.batch.receipts]
        number = offer.batch.number
        with self.begin() as tx:
            if self._in_flight(tx) is not None:
                return False
            lost = tx.batches.get(self.operator, number)
            # Another settler at the same point makes the same key: one of the two fails as a `Conflict`.
            key = f"commit:{self.operator}:{number}:{lost.commit_tx if lost else 'first'}"
            row = tx.transactions.enqueue(self.operator, "Settlement", "commit", offer.arguments, key)
            tx.batches.put(BatchRecord(self.operator, number, offer.digest, row, is_released=False))
            tx.receipts.assign(self.operator, number, ids)
        return True


def _commitment(batch: Batch, digest: Hash32) -> dict[str, Any]:
    """Settlement's `Commitment`."""
    return {
        "parent": batch.parent.hash,
        "parameterSet": batch.parameter_set,
        "total": batch.total,
        "receiptsRoot": to_hash(batch.receipts_tree.root),
        "receiptsCount": batch.receipts_tree.count,
        "entriesRoot": to_hash(batch.entries_tree.root),
        "entriesCount": batch.entries_tree.count,
        "balancesRoot": to_hash(batch.balances_tree.root),
        "balancesCount": batch.balances_tree.count,
        "dataDigest": digest,
    }


def _fate(tx: SettlementTx, record: BatchRecord) -> Fate:
    batches = standing(tx.chain.batches(record.operator))
    if any((b.number, b.header["dataDigest"]) == (record.number, record.data_digest) for b in batches):
        return Fate.STANDS
    commit = tx.transactions.get(record.commit_tx)
    if commit.state is TransactionState.FAILED:
        return Fate.LOST
    cursor = tx.chain.cursor()
    is_indexed = (
        cursor is not None and commit.block_number is not None and cursor.number >= commit.block_number
    )
    return Fate.LOST if commit.state is TransactionState.CONFIRMED and is_indexed else Fate.OPEN


def _cut(
    takes: dict[ChannelId, Take], skipped: dict[ChannelId, str], bad: BadReceipt, channel: ChannelId
) -> None:
    """Settle the channel only up to its bad receipt."""
    skipped[channel] = str(bad)
    before = sum(len(takes[c].receipts) for c in takes if c < channel)
    kept = takes[channel].receipts[: bad.details["index"] - before]
    if kept:
        takes[channel] = replace(takes[channel], receipts=kept)
    else:
        del takes[channel]


def _narrow(
    takes: dict[ChannelId, Take],
    aside: dict[ChannelId, Take],
    skipped: dict[ChannelId, str],
    refused: Reverted,
) -> None:
    """Skip the channel that the chain refused, if it is known; else put half of them aside to find it."""
    named = refused.args_by_name.get("channelId")
    if named not in takes and len(takes) > 1:
        for channel in sorted(takes)[len(takes) // 2 :]:
            aside[channel] = takes.pop(channel)
        return
    channel = named if named in takes else next(iter(takes))
    skipped[channel] = str(refused)
    del takes[channel]
