"""From signed receipts to a final batch, one step at a time.

    receipts -> build -> simulate -> publish the data -> [enqueue the commit, assign the receipts] -> finalise

Only the bracket changes the database, in one unit of work; all before it may be done again. So the process
may die anywhere, and the next `run_once` goes on from what database and chain say.

After a void:

    [receipts of fallen batches are unsettled again] -> [enqueue the refunds, newest first] -> refunded

Nothing is committed before every voided batch is refunded: then the channels are as they were, and vouchers
and receipts are gone through anew. What was convicted is not committed again, see `convicted`. If a void
falls out of the chain, its batches stand again and take back their receipts; refunds under way then fail.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backend.domain.batch import Batch, build
from backend.domain.batch_data import FILE_NAME, BatchName, encode
from backend.domain.chain import Reverted
from backend.domain.content import cid_digest
from backend.domain.errors import Conflict
from backend.domain.hashing import receipt_id, to_hash
from backend.domain.rules import Rules
from backend.domain.settlement import BatchRecord
from backend.services.settle.convictions import Convictions, receipts_of
from backend.services.settle.select import Take, select
from backend.services.settle.status import adopt, newest_due, outstanding, settle_fates, strays
from backend.services.settle.validate import Vetting
from backend.services.transactions.retry import enqueue_again
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.batch import OperatorLedger
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId, Hash32
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain import Chain, Recover, SessionKeys
    from backend.ports.storage import BlobStore
    from backend.services.audit.auditor import Auditor


log = logging.getLogger(__name__)

MAX_LINKS = 128
"""Of a batch's span to its answers': OpenTelemetry keeps no more of one."""
_OF_THE_WHOLE_BATCH = {
    "ParentMismatch",
    "ParameterSetNotCurrent",
    "ParameterSetUnknown",
    "CommitsArePaused",
    "StakeTooLow",
    "RingFull",
    "RefundsOutstanding",
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
    REFUNDING = "refunding"
    """Voided batches are refunded first."""
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

    `keys` are the session keys that payers let this gateway hold; `recover` is the signers' inverse; `vault`
    and `settlement` are the EIP-712 domains of the contracts; `clock` gives unix seconds, the later of wall
    clock and newest block. The operator's own account sends.
    """

    operator: Account
    db: Database
    chain: Chain
    blobs: BlobStore
    auditor: Auditor
    keys: SessionKeys
    recover: Recover
    vault: TypedDomain
    settlement: TypedDomain
    pace: Pace
    clock: Callable[[], int]
    thaw_seconds: int
    """The vault's: how long what a session key signed stays collectable after its end."""

    def run_once(self, *, is_forced: bool = False) -> Progress:
        """Finalise what is due, settle the fate of the batch in flight, refund, or commit the next one.

        `is_forced` commits what there is, due or not. Errors: `WrongBatch` if an own batch does not stand up
        to the audit: nothing is built on it. `Unavailable` if chain or store cannot be reached: run again.
        """
        now = self.clock()
        with self.db.begin() as tx:
            batches = tx.chain.batches(self.operator)
            number = settle_fates(tx, self.operator, batches)
            due, found = newest_due(tx.chain, batches, now), strays(tx, self.operator, batches)
        self._finalise(due)
        if number is not None:
            return Progress(Step.WAITING, number)
        if fallen := outstanding(batches):
            self._refund(fallen[0])
            return Progress(Step.REFUNDING, fallen[0].number)
        ledger = self.auditor.follow(self.operator)
        self._adopt(found)
        with self.db.read() as tx:
            if not (is_forced or self._is_due(tx)):
                return Progress(Step.IDLE)
            offer, skipped = self._next(tx, ledger)
        if isinstance(offer, Progress):
            return offer
        step = Step.COMMITTING if self._commit(offer) else Step.WAITING
        return Progress(step, offer.batch.number, skipped=skipped)

    def finalise(self) -> int | None:
        """Enqueue the newest batch that is due, and with it all before it; its number."""
        now = self.clock()
        with self.db.read() as tx:
            due = newest_due(tx.chain, tx.chain.batches(self.operator), now)
        return self._finalise(due)

    def _finalise(self, due: CommittedBatch | None) -> int | None:
        if due is None:
            return None
        call, header = ("Settlement", "finalise"), dict(due.header)
        if not self._would_pass(call, header):
            return None
        with self.db.begin() as tx:
            if tx.chain.finalised(self.operator) < due.number:
                self._enqueue(tx, call, [header], f"finalise:{due.hash}")
        return due.number

    def _refund(self, first: CommittedBatch) -> None:
        """Enqueue refunds of all voided batches, if that of the first passes.

        Anybody may refund them too: what is refused because somebody was faster is asked anew next time.
        """
        call = ("Settlement", "refund")
        with self.db.read() as tx:
            args = _refund(tx, first)
        if not self._would_pass(call, *args):
            return
        with self.db.begin() as tx:
            for batch in outstanding(tx.chain.batches(self.operator)):
                void = batch.conviction.tx_hash if batch.conviction else ""
                self._enqueue(tx, call, _refund(tx, batch), f"refund:{batch.hash}:{void}")

    def _would_pass(self, call: tuple[str, str], *args: Any) -> bool:
        try:
            self.chain.prepare(*call, *args, sender=self.operator)
        except Reverted as refused:
            # The node is behind us, or somebody was faster, or our own call waits: the next run asks again.
            log.info("not sent now: %s", refused)
            return False
        return True

    def _enqueue(self, tx: UnitOfWork, call: tuple[str, str], args: Sequence[Any], key: str) -> None:
        """For a call whose effect the view does not show: confirmed before where the view is, it fell out."""
        cursor = tx.chain.cursor()
        seen = None if cursor is None else cursor.number
        enqueue_again(tx, self.operator, call, args, key, seen=seen)

    def _adopt(self, found: Sequence[CommittedBatch]) -> None:
        """Take in the receipts of batches that stand and that we held for lost, or that others committed."""
        for batch in found:
            try:
                receipts = receipts_of(batch, self.blobs, self.settlement)
            except Conflict as error:
                log.warning("the receipts of batch %d stay unmarked: %s", batch.number, error)
                receipts = ()
            ids = [receipt_id(signed.receipt) for signed in receipts]
            with self.db.begin() as tx:
                log.info("batch %d stands, with %d of our receipts", batch.number, adopt(tx, batch, ids))

    def _is_due(self, tx: UnitOfWork) -> bool:
        backlogs = tx.receipts.backlogs(self.operator)
        if sum(backlog.num_receipts for backlog in backlogs) >= self.pace.receipts:
            return True
        return any(self.clock() - b.oldest_served_at >= self.pace.seconds for b in backlogs)

    def _next(self, tx: UnitOfWork, ledger: OperatorLedger) -> tuple[Offer | Progress, dict[ChannelId, str]]:
        """What is to be committed next, and what is left out, why."""
        lessons = self._convictions.lessons(tx)
        if lessons.objection:
            return Progress(Step.REFUSED, ledger.number + 1, lessons.objection), {}
        vetting = Vetting(self.operator, tx.chain, self.recover, self.settlement, lessons.aside)
        over_before = self.clock() - self.thaw_seconds
        takes, skipped = select(tx, ledger, vetting, self.keys, self.pace.receipts, over_before)
        return self._offer(tx, ledger, takes, skipped), skipped

    @cached_property
    def _convictions(self) -> Convictions:
        return Convictions(self.operator, self.chain, self.blobs, self.settlement)

    def _offer(
        self,
        tx: UnitOfWork,
        ledger: OperatorLedger,
        takes: dict[ChannelId, Take],
        skipped: dict[ChannelId, str],
    ) -> Offer | Progress:
        """A batch of all takes that the chain accepts; the others move from `takes` to `skipped`.

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
        with self.db.begin() as tx:
            batches = tx.chain.batches(self.operator)
            if settle_fates(tx, self.operator, batches) is not None or outstanding(batches):
                return False
            lost = tx.batches.get(self.operator, number)
            # Another settler at the same point makes the same key: one of the two fails as a `Conflict`.
            key = f"commit:{self.operator}:{number}:{(lost and lost.commit_tx) or 'first'}"
            tx.receipts.assign(self.operator, number, ids)
            answers = tx.receipts.traces(self.operator, number, MAX_LINKS) if traces.is_on() else ()
            with traces.span("batch", links=answers, batch__number=number, batch__receipts=len(ids)):
                row = tx.transactions.enqueue(self.operator, "Settlement", "commit", offer.arguments, key)
            tx.batches.put(BatchRecord(self.operator, number, offer.digest, row, is_released=False))
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


def _refund(tx: UnitOfWork, batch: CommittedBatch) -> list[Any]:
    """Arguments of `Settlement.refund`."""
    return [dict(batch.header), [span.refund for span in tx.chain.spans(batch.hash)]]


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
