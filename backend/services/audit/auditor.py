"""Recomputes batches from the chain and public batch data only, never from receipts of this installation.

Answers to demands are public data too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.batch import Batch, Header, OperatorLedger
from backend.domain.errors import Conflict, NotFound, Unavailable
from backend.domain.judging.case import Finding, Right, Undecided, Wrong
from backend.domain.judging.judge import judge
from backend.domain.settlement import BatchState
from backend.services.audit.earnings import credits_of, earned_by_contribution
from backend.services.audit.published import TOO_LARGE, BatchTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.disputes.proofs import Proof
    from backend.domain.disputes.witnesses import Tree
    from backend.domain.earnings import ContributionEarning
    from backend.domain.ids import Account
    from backend.domain.judging.case import Judgement
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain_view import ChainView
    from backend.services.audit.cases import Cases
    from backend.services.audit.published import BatchReceipts


_Resumed = tuple[OperatorLedger, "list[tuple[CommittedBatch | None, CommittedBatch]]"]
LEDGER_INTERVAL = 16
"""Of the ledgers of final batches, one in so many is kept. A batch is built on the ledger before it: a proof
from a final batch takes the audit of at most so many batches, however many there are.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of the audit of one batch."""

    header: Header
    finding: Finding | None
    """The first fault, or what is withheld; None if the batch is right."""
    proof: Proof | None = None
    """Fraud proof that voids the batch."""
    demands: tuple[tuple[Tree, tuple[int, ...]], ...] = ()
    """Trees and keys of leaves to demand first, if only the operator's data can show the fault."""

    @property
    def is_right(self) -> bool:
        return self.finding is None


@dataclass
class WrongBatch(Conflict):
    """A batch of this operator is wrong: no batch may be built on it and no claim made from it."""

    verdict: Verdict | None = None


class Auditor:
    """Audits operators' batches. Stores the ledgers after them, and what they credit to accounts that signed
    in here.
    """

    def __init__(
        self,
        db: Database,
        cases: Cases,
    ) -> None:
        self._db, self._cases = db, cases

    def audit(self, operator: Account) -> Iterator[Verdict]:
        """Verdicts from the operator's first batch on, up to the first wrong one that is not final: it can be
        voided with all pending ones. After a wrong batch that is final, the ledger is not known.

        Errors: `Unavailable` if the store of batch data cannot be reached, or if a batch
        becomes void or a reorganisation removes it during the audit.
        """
        with self._db.read() as tx:
            batches = tx.chain.valid_batches(operator)
        ledger: OperatorLedger | None = OperatorLedger()
        parent = None
        for known in batches:
            verdict, committed, ledger = self._verdict(known, parent, ledger)
            yield verdict
            if not verdict.is_right and committed.state is not BatchState.FINAL:
                return
            parent = committed

    def is_current(self, tx: UnitOfWork, operator: Account) -> bool:
        """Whether the operator's newest batch is audited, so that `follow` has nothing to do."""
        newest = newest_audited(tx, operator)
        number = 1 if newest is None or _is_for_proofs(tx, newest) else newest.number + 1
        return valid_batch(tx.chain, operator, number) is None

    def follow(self, operator: Account, is_turn_over: Callable[[], bool] = lambda: False) -> OperatorLedger:
        """The ledger after the operator's newest batch; audits the batches since the last call. After a batch
        with which `is_turn_over`, the ledger after that one.

        Errors: `WrongBatch`; `BatchTooLarge`; `Unavailable` as `audit`.
        """
        ledger, later = self._since_the_newest(operator)
        for parent, known in later:
            ledger = self._mirror(ledger, parent, known)
            if is_turn_over():
                break
        return ledger

    def batch(self, operator: Account, number: int) -> Batch:
        """A batch with its trees, for openings, once it is audited. Stores the ledgers at `LEDGER_INTERVAL`
        that it passes and that are missing: it may wait for other writers.

        Errors: `NotFound`; as `follow`; `DatabaseUnavailable` if another writer holds the database too long.
        """
        with self._db.read() as tx:
            if valid_batch(tx.chain, operator, number) is None:
                raise NotFound(f"{operator} has no batch {number}", "number")
            ledger, later = _resume(tx, operator, number)
        for parent, known in later[:-1]:
            ledger = self._rebuilt(ledger, parent, known)[1]
            if ledger.number % LEDGER_INTERVAL == 0:
                with self._db.begin() as tx:
                    newest = newest_audited(tx, operator)
                    # Not those that `follow` still has to store, with what the batches credit.
                    if newest is not None and ledger.number < newest.number:
                        tx.batches.save_ledger(operator, ledger)
        return self._rebuilt(ledger, *later[-1])[0]

    def _since_the_newest(self, operator: Account) -> _Resumed:
        """See `_resume`. If the newest ledger is kept for proofs alone, all are deleted, so that the batches
        are audited and their totals added up again from the first one on.
        """
        with self._db.read() as tx:
            newest = newest_audited(tx, operator)
            if newest is None or not _is_for_proofs(tx, newest):
                return _resume(tx, operator)
        with self._db.begin() as tx:
            newest = newest_audited(tx, operator)
            if newest is not None and _is_for_proofs(tx, newest):  # else another process has deleted them
                tx.batches.delete_ledgers(operator)
            return _resume(tx, operator)

    # Of each batch, the data are read before a transaction begins, and dropped before the next are read.

    def _verdict(
        self, known: CommittedBatch, parent: CommittedBatch | None, ledger: OperatorLedger | None
    ) -> tuple[Verdict, CommittedBatch, OperatorLedger | None]:
        """The verdict, the batch as it is now, and the ledger after it if it is right."""
        header = Header.from_chain(known.header)
        try:
            with self._cases.reading(header) as data, self._db.read() as tx:
                committed = _as_it_is_now(tx.chain, known)
                verdict, batch = self._judge(tx.chain, ledger, parent, committed, data)
                return verdict, committed, None if batch is None else batch.after(header)
        except BatchTooLarge as error:
            return Verdict(header, Finding(TOO_LARGE, error.message)), known, None

    def _mirror(
        self,
        ledger: OperatorLedger,
        parent: CommittedBatch | None,
        known: CommittedBatch,
    ) -> OperatorLedger:
        """Store what follows from a batch. Errors: as `_right`."""
        header = Header.from_chain(known.header)
        with self._cases.reading(header) as data:
            with self._db.read() as tx:
                batch, ledger = self._right(tx.chain, ledger, parent, known, data)
                found = credits_of(tx, batch, header, ledger)
                earned = earned_by_contribution(tx.chain, batch)
            with self._db.begin() as mirror:
                _as_it_is_now(mirror.chain, known)  # the totals continue those of the valid batches before it
                if mirror.batches.save_ledger(header.operator, ledger):
                    mirror.earnings.add(found)
                    totals, valid_among = mirror.contribution_totals, mirror.chain.valid_among
                    totals.add(header.operator, batch.number, ledger.hash, earned, valid_among)
                    _prune(mirror, header.operator, earned)
                # Else another process has mirrored the batch, with all that follows.
        return ledger

    def _rebuilt(
        self, ledger: OperatorLedger, parent: CommittedBatch | None, known: CommittedBatch
    ) -> tuple[Batch, OperatorLedger]:
        """See `_right`."""
        header = Header.from_chain(known.header)
        with self._cases.reading(header) as data, self._db.read() as tx:
            return self._right(tx.chain, ledger, parent, known, data)

    def _right(
        self,
        chain: ChainView,
        ledger: OperatorLedger,
        parent: CommittedBatch | None,
        known: CommittedBatch,
        data: BatchReceipts,
    ) -> tuple[Batch, OperatorLedger]:
        """The batch and the ledger after it. Errors: `WrongBatch`; as `_as_it_is_now`."""
        committed = _as_it_is_now(chain, known)
        verdict, batch = self._judge(chain, ledger, parent, committed, data)
        if batch is None:
            raise _wrong_batch(verdict)
        return batch, batch.after(verdict.header)

    def _judge(
        self,
        chain: ChainView,
        ledger: OperatorLedger | None,
        parent: CommittedBatch | None,
        committed: CommittedBatch,
        data: BatchReceipts,
    ) -> tuple[Verdict, Batch | None]:
        """The verdict, and the batch if it is right."""
        header = Header.from_chain(committed.header)
        if header.hash != committed.hash:
            return Verdict(header, Finding("hash", f"the header is not that of {committed.hash}")), None
        judged = self._judgement(chain, committed, ledger, parent, data)
        if isinstance(judged, Right):
            return Verdict(header, None), judged.batch
        if isinstance(judged, Wrong):
            return Verdict(header, judged.finding, judged.proof), None
        return Verdict(header, judged.finding, demands=judged.demands), None

    def _judgement(
        self,
        chain: ChainView,
        committed: CommittedBatch,
        ledger: OperatorLedger | None,
        parent: CommittedBatch | None,
        data: BatchReceipts,
    ) -> Judgement:
        number = int(committed.header["parameterSet"])
        terms = chain.parameter_set(number)
        if terms is None:
            return Undecided(Finding("parameter_set", f"there is no parameter set {number}"), ())
        case = self._cases.case(chain, committed, parent, ledger, data)
        header = case.header
        is_signed = self._cases.is_signed(chain, header.operator, header.committed_at)
        return judge(case, chain, terms, is_signed)


def _as_it_is_now(chain: ChainView, batch: CommittedBatch) -> CommittedBatch:
    """A batch of an earlier view: it may have become final, and claims may have followed. Errors:
    `Unavailable` if it is not valid any more.
    """
    found = chain.batch(batch.hash)
    if found is None or found.state is BatchState.VOID:
        raise Unavailable(
            f"batch {batch.number} of {batch.operator} became invalid during the audit; try again"
        )
    return found


def valid_batch(chain: ChainView, operator: Account, number: int) -> CommittedBatch | None:
    """The operator's batch with this number, unless it is void."""
    batch = chain.numbered_batch(operator, number)
    return None if batch is None or batch.state is BatchState.VOID else batch


def newest_audited(tx: UnitOfWork, operator: Account, until: int | None = None) -> CommittedBatch | None:
    """The operator's newest valid batch, up to number `until` (None: any), whose ledger is stored."""
    while stored := tx.batches.newest_ledgers(operator, until):
        for number, batch_hash in stored:
            until, batch = number - 1, tx.chain.batch(batch_hash)
            if batch is not None and batch.state is not BatchState.VOID:
                return batch
    return None


def newest_final(tx: UnitOfWork, operator: Account) -> CommittedBatch | None:
    """The operator's newest final batch whose ledger is stored."""
    return newest_audited(tx, operator, tx.chain.finalised(operator))


def ledger_of(tx: UnitOfWork, audited: CommittedBatch | None) -> OperatorLedger:
    """The ledger after a batch that is audited; an empty one for None."""
    ledger = None if audited is None else tx.batches.ledger(audited.operator, audited.hash)
    return ledger or OperatorLedger()


def _prune(tx: UnitOfWork, operator: Account, earned: Sequence[ContributionEarning]) -> None:
    """Delete what final batches have replaced before the newest of them at `LEDGER_INTERVAL`: ledgers, except
    those at the interval, and totals of the versions in `earned`. All later ledgers are kept, so that
    `_is_for_proofs` can tell from which ones the totals continue.
    """
    newest = newest_final(tx, operator)
    if newest is not None:
        number = newest.number - newest.number % LEDGER_INTERVAL
        tx.batches.prune_ledgers(operator, number, LEDGER_INTERVAL)
        tx.contribution_totals.prune(operator, number, tx.chain.valid_among, earned)


def _is_for_proofs(tx: UnitOfWork, newest: CommittedBatch) -> bool:
    """Whether the ledger of the newest audited batch is one that `_prune` kept for proofs alone, because a
    reorganisation has removed the later batches. The ledger after it was deleted then, while later ones are
    stored, and so were totals that later batches replaced.
    """
    following = tx.batches.next_ledger(newest.operator, newest.number)
    return following is not None and following > newest.number + 1


def _resume(tx: UnitOfWork, operator: Account, until: int | None = None) -> _Resumed:
    """The newest stored ledger before the batch with number `until` (None: any), and the batches after it, up
    to that number, each with its parent.
    """
    newest = newest_audited(tx, operator, None if until is None else until - 1)
    later = tx.chain.valid_batches(operator, 0 if newest is None else newest.number, until)
    return ledger_of(tx, newest), list(zip([newest, *later], later, strict=False))


def _wrong_batch(verdict: Verdict) -> WrongBatch:
    header, finding = verdict.header, verdict.finding
    message = f"batch {header.number} of {header.operator} is wrong: {finding.message if finding else ''}"
    return WrongBatch(message, verdict=verdict)
