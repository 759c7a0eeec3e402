"""Settles signed receipts: builds, commits and finalises batches, one step at a time.

    receipts -> build -> simulate -> publish the data -> [enqueue the commit, assign the receipts] -> finalise

Only the bracketed step changes the database, in one unit of work; the steps before it can be repeated. The
process may therefore crash anywhere: the next `run_once` continues from the state of database and chain.

After a void:

    [receipts of voided batches are unsettled again] -> [enqueue the refunds, newest first] -> refunded

Nothing is committed before every voided batch is refunded. Then the channels are as before those batches, and
vouchers and receipts are selected again; `convictions` excludes what would be convicted again. If a reorg
removes a void, its batches are valid again and get their receipts back; pending refunds then fail.

While a receipt key is being retired nothing is committed either, see `retired_keys`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from backend.domain.batch import MAX_SPANS, Batch, CommitTerms, build
from backend.domain.batch_data import FILE_NAME, BatchName, encode
from backend.domain.chain import Reverted
from backend.domain.content import cid_digest
from backend.domain.errors import Conflict, Unavailable
from backend.domain.hashing import receipt_id
from backend.domain.rules import Rules
from backend.domain.settlement import BatchRecord, BatchState
from backend.services.channels.charges import sign_overdue
from backend.services.settle.adoption import adopt, unrecorded
from backend.services.settle.convictions import Convictions, receipts_of
from backend.services.settle.pace import BatchLimits, Pace, amount_covered
from backend.services.settle.retired_keys import (
    pending_retirement,
    recent_retirement,
    retired_keys,
    sign_again,
)
from backend.services.settle.select import Selection, select
from backend.services.settle.status import next_due, outstanding_refunds, update_records
from backend.services.settle.validate import Validator
from backend.services.settle.waivers import demand_waivers
from backend.services.transactions.retry import enqueue_with_retry
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.batch import OperatorLedger
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId, Hash32
    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import Backlog, CommittedBatch
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Recover, SessionKeys, Signer
    from backend.ports.storage import BlobStore
    from backend.services.audit.auditor import Auditor

    IsDue = Callable[[Collection[Selection], BatchLimits], bool]
    """Whether a batch of these selections is due."""

log = logging.getLogger(__name__)

MAX_FINALISED = 64
"""Batches that one transaction finalises, far below a block's gas."""
MAX_LINKS = 128
"""Links from a batch's span to those of its answers: OpenTelemetry's limit."""
_BATCH_REVERTS = {
    "ParentMismatch",
    "ParameterSetNotCurrent",
    "ParameterSetUnknown",
    "CommitsArePaused",
    "RefundsOutstanding",
}
"""Reverts of a commit that do not depend on the selected channels."""


class Step(StrEnum):
    IDLE = "idle"
    """Nothing is due, or no due receipt can be settled: see `skipped`."""
    WAITING = "waiting"
    """A commit is pending."""
    REFUNDING = "refunding"
    """Voided batches are refunded first."""
    RETIRING = "retiring"
    """A receipt key is being retired: see `reason`."""
    REFUSED = "refused"
    """The chain would refuse the batch now: see `reason`."""
    COMMITTING = "committing"
    """The commit of a new batch was queued."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Result of one `run_once`."""

    step: Step
    number: int | None = None
    """Number of the batch that `step` is about."""
    reason: str = ""
    skipped: Mapping[ChannelId, str] = field(default_factory=dict)
    """Channels whose due receipts could not be settled now, and why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A batch that the chain would accept, ready to be published and committed."""

    batch: Batch
    files: Mapping[str, bytes]
    """Files of the folder with the batch's data."""
    digest: Hash32
    """Digest of the folder's CID."""
    arguments: tuple[Any, ...]
    """Arguments of `Settlement.commit`."""
    retired: Mapping[Account, int]
    """Receipt keys that were retired when the batch was built; it has no signature of them."""


@dataclass(frozen=True)
class Settler:
    """Settles one operator's receipts, with one pending batch at a time.

    `keys` are the session keys that payers let this gateway hold. `vault` and `settlement` are the EIP-712
    domains of the contracts. `clock` returns unix seconds, the later of wall clock and newest block. The
    operator's account sends the transactions.
    """

    operator: Account
    db: Database
    chain: Chain
    blobs: BlobStore
    auditor: Auditor
    keys: SessionKeys
    receipt_key: Callable[[ChainView], Signer]
    """The receipt key in use, which signs receipts of retired keys again."""
    recover: Recover
    vault: TypedDomain
    settlement: TypedDomain
    pace: Pace
    clock: Callable[[], int]
    thaw_seconds: int
    """The vault's thaw: how long after its end a session key's vouchers can still be collected."""
    report_uncovered: Callable[[int], None] = lambda _: None
    """Gets the micro-units that are due at a selection and that the stake does not cover."""

    def run_once(self, *, is_forced: bool = False) -> Progress:
        """Finalise what is due; then wait for the pending batch, refund voided ones, or commit the next one.

        `is_forced` commits unsettled receipts that are not due yet. Errors: `WrongBatch` if the audit of one
        of our own batches fails: no batch is built on it. `Unavailable` if chain or store cannot be reached;
        run again.
        """
        now = self.clock()
        with self.db.begin() as tx:
            number = update_records(tx, self.operator)
            found = unrecorded(tx, self.operator)
            pending, void = tx.chain.open_batches(self.operator), tx.chain.void_batches(self.operator)
        self._finalise(pending, now)
        self._sign_overdue(now)
        voided = outstanding_refunds(void)
        if number is None and voided:
            self._refund(voided[0])
        self._demand_waivers(void)
        if number is not None:
            return Progress(Step.WAITING, number)
        if voided:
            return Progress(Step.REFUNDING, voided[0].number)
        ledger = self.auditor.follow(self.operator)
        self._adopt(found)
        sign_again(self.db, self.operator, self.settlement, self.receipt_key)
        with self.db.read() as tx:
            if reason := pending_retirement(tx, self.operator):
                return Progress(Step.RETIRING, reason=reason)
            backlogs = tx.receipts.backlogs(self.operator)
            is_due: IsDue = _always
            due: Sequence[Backlog] = backlogs
            if not is_forced:
                has_rested = self._has_rested(tx.chain)
                is_due = partial(self._is_due, has_rested=has_rested)
                due = self.pace.due(backlogs, self.clock(), self.thaw_seconds, has_rested=has_rested)
            if not due:
                return Progress(Step.IDLE)
            candidate, skipped = self._next(tx, ledger, due, is_due)
        if isinstance(candidate, Progress):
            return candidate
        step = Step.COMMITTING if self._commit(candidate) else Step.WAITING
        return Progress(step, candidate.batch.number, skipped=skipped)

    def _has_rested(self, view: ChainView) -> bool:
        """Whether a batch that is not worth its gas may follow the newest one."""
        newest = view.recent_batches(self.operator, None, 1)
        last = int(newest[0].header["committedAt"]) if newest else 0
        return self.clock() - last >= self.pace.rest_seconds(self.thaw_seconds)

    def _sign_overdue(self, now: int) -> None:
        """Sign overdue receipts of charges whose process ended before it signed them, so that they can be
        settled. Without a usable receipt key they stay unsigned, and refunds, which need none, continue.
        """
        with self.db.read() as tx:
            is_any = bool(tx.charges.overdue(self.operator, now, 1))
        if not is_any:
            return
        try:
            with self.db.begin() as tx:
                sign_overdue(tx, self.operator, self.settlement, self.receipt_key, now)
        except Unavailable as error:
            log.warning("overdue receipts stay unsigned: %s", error)

    def _demand_waivers(self, void: Sequence[CommittedBatch]) -> None:
        quarantined, is_complete = self._convictions.readable(void)
        demand_waivers(self.db, quarantined, void, is_complete=is_complete)

    def finalise(self) -> int | None:
        """Enqueue the finalisation of the batches that are due; returns the number of the last one."""
        with self.db.read() as tx:
            pending = tx.chain.open_batches(self.operator)
        return self._finalise(pending, self.clock())

    def _finalise(self, pending: Sequence[CommittedBatch], now: int) -> int | None:
        due = list(takewhile(lambda b: self._is_finalisable(b, now), next_due(pending, now)[:MAX_FINALISED]))
        if not due:
            return None
        call, headers = ("Settlement", "finalise"), [dict(batch.header) for batch in due]
        if not self._would_succeed(call, headers):
            return None
        with self.db.begin() as tx:
            # A second finalisation would revert once the first one is mined.
            is_pending = bool(tx.transactions.to_be_mined(self.operator, *call))
            if tx.chain.finalised(self.operator) < due[0].number and not is_pending:
                self._enqueue(tx, call, [headers], f"finalise:{due[0].number}:{due[-1].hash}")
        return due[-1].number

    def _is_finalisable(self, batch: CommittedBatch, now: int) -> bool:
        """Whether the batch's block is reached, no demand on it is open, and proofs based on answers have had
        their time.
        """
        if int(batch.header["finalBlock"]) > self.chain.head().number:
            return False
        num_open, _, proofs_until = self.chain.call("Disputes", "demandsOn", batch.hash)
        return bool(num_open == 0 and proofs_until <= now)

    def _refund(self, first: CommittedBatch) -> None:
        """Enqueue refunds of all voided batches if the first one would succeed.

        Any account may send refunds. If another one was faster, the next run checks again.
        """
        call = ("Settlement", "refund")
        with self.db.read() as tx:
            args = _refund(tx, first)
        if not self._would_succeed(call, *args):
            return
        with self.db.begin() as tx:
            for batch in outstanding_refunds(tx.chain.void_batches(self.operator)):
                void = batch.conviction.tx_hash if batch.conviction else ""
                self._enqueue(tx, call, _refund(tx, batch), f"refund:{batch.hash}:{void}")

    def _would_succeed(self, call: tuple[str, str], *args: Any) -> bool:
        try:
            self.chain.prepare(*call, *args, sender=self.operator)
        except Reverted as refused:
            # The node lags, another sender was faster, or our own call is pending: the next run checks again.
            log.info("not queued now: %s", refused)
            return False
        return True

    def _enqueue(self, tx: UnitOfWork, call: tuple[str, str], args: Sequence[Any], key: str) -> None:
        """Enqueue a call whose effect the view does not show. An earlier one that was confirmed at or before
        the view's cursor was therefore removed by a reorg, and is sent again.
        """
        cursor = tx.chain.cursor()
        seen = None if cursor is None else cursor.number
        enqueue_with_retry(tx, self.operator, call, args, key, seen=seen)

    def _adopt(self, found: Sequence[CommittedBatch]) -> None:
        """Record batches that are not recorded. A valid one whose data cannot be read has no receipts here; a
        void one is tried again, since its receipts are to be settled.
        """
        for batch in found:
            try:
                receipts = receipts_of(batch, self.blobs, self.settlement)
            except Conflict as error:
                log.warning("the receipts of batch %d are not known: %s", batch.number, error)
                if batch.state is BatchState.VOID:
                    continue
                receipts = ()
            with self.db.begin() as tx:
                number = adopt(tx, batch, receipts, self._signer_of)
                state = "void" if batch.state is BatchState.VOID else "valid"
                log.info("batch %d is %s, and %d of our receipts are in it", batch.number, state, number)

    def _signer_of(self, signed: SignedReceipt) -> Account:
        return self.recover(self.settlement.receipt_digest(signed.receipt), signed.signature)

    def _next(
        self, tx: UnitOfWork, ledger: OperatorLedger, backlogs: Sequence[Backlog], is_due: IsDue
    ) -> tuple[Candidate | Progress, dict[ChannelId, str]]:
        """The next batch to commit, and the channels left out with the reasons."""
        if reason := recent_retirement(self.chain, tx.chain, self.operator):
            return Progress(Step.RETIRING, reason=reason), {}
        restrictions = self._convictions.restrictions(tx)
        if restrictions.halt_reason:
            return Progress(Step.REFUSED, ledger.number + 1, restrictions.halt_reason), {}
        terms = tx.chain.latest_parameter_set()
        if terms is None:
            return Progress(Step.REFUSED, reason="the parameters are not indexed yet"), {}
        now = self.clock()
        validator = Validator(self.operator, tx.chain, self.recover, self.settlement, restrictions, now)
        covered = amount_covered(self.chain, self.operator, terms.stake_cover_ppm)
        self.report_uncovered(max(0, sum(backlog.amount for backlog in backlogs) - covered))
        limits = BatchLimits(self.pace.receipts, self.pace.entries, covered, now - self.thaw_seconds)
        selections, skipped = select(tx, backlogs, ledger, validator, self.keys, limits)
        if not is_due(selections.values(), limits):
            return Progress(Step.IDLE, skipped=skipped), skipped
        built = self._build(tx, ledger, terms, dict(selections), skipped)
        if isinstance(built, Candidate):
            kept = [selections[span.channel_id] for span in built.batch.spans]  # the chain may refuse some
            if not is_due(kept, limits):
                return Progress(Step.IDLE, skipped=skipped), skipped
        return built, skipped

    def _is_due(self, selections: Collection[Selection], limits: BatchLimits, *, has_rested: bool) -> bool:
        """Whether the selected receipts alone make a batch due, and worth its gas."""
        is_full = limits.without([signed for found in selections for signed in found.receipts]).is_full
        served_at = [found.receipts[0].receipt.served_at for found in selections]
        has_no_room = is_full or len(selections) == MAX_SPANS
        if not self.pace.is_due(served_at, self.clock(), is_full=has_no_room):
            return False
        parts = [(found.amount, found.is_cut) for found in selections]
        return has_rested or self.pace.is_worth(parts, is_full=is_full)

    @cached_property
    def _convictions(self) -> Convictions:
        return Convictions(self.operator, self.chain, self.blobs, self.settlement, self.recover)

    def _build(
        self,
        tx: UnitOfWork,
        ledger: OperatorLedger,
        terms: ParameterSet,
        selections: dict[ChannelId, Selection],
        skipped: dict[ChannelId, str],
    ) -> Candidate | Progress:
        """Build a batch of all selections that the chain accepts; the others move to `skipped`.

        If a revert names no channel, bisection finds it, so that one channel never blocks the others.
        """
        rules = Rules(tx.chain)
        deferred: dict[ChannelId, Selection] = {}
        while selections or deferred:
            if not selections:
                selections, deferred = deferred, {}
            receipts = [signed for channel in sorted(selections) for signed in selections[channel].receipts]
            try:
                batch = build(self.operator, ledger, terms, receipts, rules)
                candidate = self._prepare(tx.chain, batch, selections)
            except Reverted as refused:
                if refused.error in _BATCH_REVERTS:
                    return Progress(Step.REFUSED, ledger.number + 1, str(refused), skipped)
                _bisect(selections, deferred, skipped, refused)
            else:
                skipped.update(
                    dict.fromkeys(deferred, "the chain refused a batch with it; left for the next batch")
                )
                return candidate
        return Progress(Step.IDLE, skipped=skipped)

    def _prepare(self, view: ChainView, batch: Batch, selections: Mapping[ChannelId, Selection]) -> Candidate:
        """Encode the batch and simulate its commit. Errors: `Reverted`."""
        name = BatchName(self.settlement.chain_id, self.settlement.contract, self.operator, batch.number)
        files = {FILE_NAME: encode(name, batch.receipts)}
        digest = cid_digest(self.blobs.folder_cid(files))
        collections = [selections[span.channel_id].collection(span, self.vault) for span in batch.spans]
        arguments = (batch.header(CommitTerms(), digest).commitment, collections)
        candidate = Candidate(batch, files, digest, arguments, retired_keys(view, self.operator))
        self.chain.prepare("Settlement", "commit", *candidate.arguments, sender=self.operator)
        return candidate

    def _commit(self, candidate: Candidate) -> bool:
        """Publish the data, enqueue the commit, assign the receipts; False if another settler was faster, or
        a receipt key was retired since the batch was built: the next run builds another.
        """
        self.blobs.add_folder(candidate.files)
        with self.db.read() as tx:
            if recent_retirement(self.chain, tx.chain, self.operator):
                return False
        ids = [receipt_id(signed.receipt) for signed in candidate.batch.receipts]
        number = candidate.batch.number
        with self.db.begin() as tx:
            # The lane stays locked, so that no retirement is queued before this commit is.
            if update_records(tx, self.operator) is not None:
                return False
            if outstanding_refunds(tx.chain.void_batches(self.operator)):
                return False
            if pending_retirement(tx, self.operator):
                return False
            # An indexed retirement is not pending any more, yet the batch may have the key's signatures.
            if retired_keys(tx.chain, self.operator) != candidate.retired:
                return False
            lost = tx.batches.get(self.operator, number)
            key = f"commit:{self.operator}:{number}:{(lost and lost.commit_tx) or 'first'}"
            tx.receipts.assign(self.operator, number, ids)
            answers = tx.receipts.traces(self.operator, number, MAX_LINKS) if traces.is_on() else ()
            with traces.span("batch", links=answers, batch__number=number, batch__receipts=len(ids)):
                row = tx.transactions.enqueue(self.operator, "Settlement", "commit", candidate.arguments, key)
            tx.batches.put(BatchRecord(self.operator, number, candidate.digest, row, is_released=False))
        return True


def _always(_selections: Collection[Selection], _limits: BatchLimits) -> bool:
    return True


def _refund(tx: UnitOfWork, batch: CommittedBatch) -> list[Any]:
    """Arguments of `Settlement.refund`."""
    return [dict(batch.header), [span.refund for span in tx.chain.spans(batch.hash)]]


def _bisect(
    selections: dict[ChannelId, Selection],
    deferred: dict[ChannelId, Selection],
    skipped: dict[ChannelId, str],
    refused: Reverted,
) -> None:
    """Skip the channel that the chain refused if it is known; else defer half of the channels to find it."""
    named = refused.args_by_name.get("channelId")
    if named not in selections and len(selections) > 1:
        for channel in sorted(selections)[len(selections) // 2 :]:
            deferred[channel] = selections.pop(channel)
        return
    channel = named if named in selections else next(iter(selections))
    skipped[channel] = str(refused)
    del selections[channel]
