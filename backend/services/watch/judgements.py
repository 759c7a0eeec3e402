"""Judges the batches of operators, each on the ledger of the one before, and remembers what cannot change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.batch import Header, OperatorLedger
from backend.domain.judging.case import Finding, Right, Undecided, Wrong
from backend.domain.judging.claims import below_claimed
from backend.domain.settlement import BatchState
from backend.services.audit.auditor import newest_final
from backend.services.audit.published import TOO_LARGE, BatchTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account, Hash32
    from backend.domain.judging.case import Case, IsSigned, Judgement, Registry
    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch
    from backend.services.audit.cases import Cases
    from backend.services.audit.published import BatchReceipts

_NO_DATA: BatchReceipts = (None, None)


@dataclass
class Judgements:
    """A batch that is right is judged once, and its ledger is stored; others again when more is known."""

    db: Database
    cases: Cases
    judge: Callable[[Case, Registry, ParameterSet, IsSigned], Judgement]
    evidence: Callable[[], Sequence[SignedReceipt]]
    _reached: dict[Account, dict[Hash32, BatchReceipts | None]] = field(default_factory=dict)
    """Of each operator, the batches that were judged since `begin_again`; with the finding for data that is
    missing, which is not asked for again before then.
    """
    _open: dict[Hash32, tuple[tuple[object, ...], Judgement]] = field(default_factory=dict)
    """For batches that are not right: the data known at the last judgement, and the judgement."""
    _compared: dict[Account, tuple[tuple[Hash32, int], Wrong | None]] = field(default_factory=dict)
    """By operator: its oldest pending batch and the sum of the claims, and the result of comparing them."""
    _cleared: dict[Hash32, int] = field(default_factory=dict)
    """Batches that are right, with the amount of evidence known at the judgement."""
    _with_large: set[Account] = field(default_factory=set)
    """Operators with a batch that is too large to be judged here. What follows from its balances is unknown,
    and not demanded: that would pay for what a watcher with more memory reads.
    """
    _beyond: dict[Account, Hash32] = field(default_factory=dict)
    """Of each operator, the newest final batch that is not right. It cannot be challenged, and later batches
    have no ledger.
    """

    def begin_again(self, operator: Account) -> None:
        """Ask again for data of the operator's batches that is missing."""
        self._reached[operator] = {}

    def resume(
        self, tx: UnitOfWork, operator: Account
    ) -> tuple[Sequence[CommittedBatch], int, OperatorLedger | None]:
        """The operator's valid batches from the last judged final one on, the index of the first to judge,
        and the ledger before it, if it is known.
        """
        batches = tx.chain.valid_batches(operator, max(self._last_judged(tx, operator) - 1, 0))
        start, ledger = self._newest_ledger(tx, batches)
        if ledger is not None:
            self._with_large.discard(operator)  # the walk adds it again for a large batch after these
        return batches, start, ledger

    def walk(
        self, tx: UnitOfWork, batches: Sequence[CommittedBatch], start: int, ledger: OperatorLedger | None
    ) -> Iterator[tuple[CommittedBatch, Judgement, bool]]:
        """Judge one operator's batches from index `start` on, with the ledger before it. Also yields whether
        a batch is reached for the first time since `begin_again`.
        """
        if (found := self._below_claimed(tx, batches[:start])) is not None:
            yield *found, False
        for place in range(start, len(batches)):
            batch, parent = batches[place], batches[place - 1] if place else None
            reached = self._reached.setdefault(batch.operator, {})
            is_new = batch.hash not in reached
            judgement, ledger = self._judgement(tx, batch, parent, ledger, reached), None
            if isinstance(judgement, Right):
                self._cleared[batch.hash] = len(self.evidence())
                ledger = self._mirror(judgement, Header.from_chain(batch.header))
            elif batch.state is BatchState.FINAL:
                self._beyond[batch.operator] = batch.hash
            yield batch, judgement, is_new
            del judgement  # as its receiver does

    def _last_judged(self, tx: UnitOfWork, operator: Account) -> int:
        """Number of the newest final batch that is judged; 0 if none is."""
        known = [newest_final(tx, operator)]
        if operator in self._beyond:
            known.append(tx.chain.batch(self._beyond[operator]))
        final = (one.number for one in known if one is not None and one.state is BatchState.FINAL)
        return max(final, default=0)

    def _newest_ledger(
        self, tx: UnitOfWork, batches: Sequence[CommittedBatch]
    ) -> tuple[int, OperatorLedger | None]:
        """The index of the batch after the newest stored ledger, and this ledger. `batches` begin with the
        first one, or with one that `_last_judged` found.
        """
        for place in range(len(batches), 0, -1):
            newest = batches[place - 1]
            if newest.state is BatchState.FINAL and newest.hash == self._beyond.get(newest.operator):
                return place, None
            ledger = tx.batches.ledger(newest.operator, newest.hash)
            if ledger is not None and self._is_cleared(newest):
                return place, ledger
        return 0, OperatorLedger()

    def _is_cleared(self, batch: CommittedBatch) -> bool:
        """Whether a batch already judged right can be skipped: it is final, or no newer evidence is known."""
        num_known = len(self.evidence())
        return not num_known or batch.state is BatchState.FINAL or self._cleared.get(batch.hash) == num_known

    def _below_claimed(
        self, tx: UnitOfWork, judged: Sequence[CommittedBatch]
    ) -> tuple[CommittedBatch, Wrong] | None:
        """A batch that was right until an account claimed more than its balance, from an older final batch.

        The oldest pending batch suffices: from one batch that is right to the next no balance falls.
        """
        oldest = next((batch for batch in judged if batch.state is not BatchState.FINAL), None)
        if oldest is None:
            return None
        claimed = tx.chain.claimed(oldest.operator)
        known = oldest.hash, sum(claimed.values())
        if self._compared.get(oldest.operator, (None, None))[0] != known:
            ledger, header = tx.batches.ledger(oldest.operator, oldest.hash), Header.from_chain(oldest.header)
            wrong = None if ledger is None else below_claimed(header, ledger.balances, claimed)
            self._compared[oldest.operator] = known, wrong
        wrong = self._compared[oldest.operator][1]
        return None if wrong is None else (oldest, wrong)

    def _judgement(
        self,
        tx: UnitOfWork,
        batch: CommittedBatch,
        parent: CommittedBatch | None,
        ledger: OperatorLedger | None,
        reached: dict[Hash32, BatchReceipts | None],
    ) -> Judgement:
        judgement = self._as_before(tx, batch, parent, ledger)
        if judgement is None:
            header = Header.from_chain(batch.header)
            try:
                data = reached.get(batch.hash) or self.cases.receipts(header)
            except BatchTooLarge as error:
                self._with_large.add(batch.operator)
                reached[batch.hash] = None
                return Undecided(Finding(TOO_LARGE, error.message), ())
            reached[batch.hash] = None if data[0] is not None else data
            judgement = self._judged(
                tx, self.cases.case(tx.chain, batch, parent, ledger, data, self.evidence())
            )
        else:
            reached[batch.hash] = None
        if batch.operator in self._with_large and _lacks_parent(judgement):
            text = "the balances before it are not known here: they follow from a batch that is too large"
            return Undecided(Finding(TOO_LARGE, text), ())
        return judgement

    def _as_before(
        self,
        tx: UnitOfWork,
        batch: CommittedBatch,
        parent: CommittedBatch | None,
        ledger: OperatorLedger | None,
    ) -> Judgement | None:
        """The latest judgement of published receipts, which never change, if nothing else is known since."""
        before = self._open.get(batch.hash)
        if before is None:
            return None
        case = self.cases.case(tx.chain, batch, parent, ledger, _NO_DATA)
        return before[1] if before[0] == _known(case, has_receipts=True) else None

    def _judged(self, tx: UnitOfWork, case: Case) -> Judgement:
        header, known = case.header, _known(case, has_receipts=case.receipts is not None)
        before = self._open.get(header.hash)
        if before is not None and before[0] == known:
            return before[1]
        terms = tx.chain.parameter_set(header.parameter_set)
        if terms is None:  # the contract accepted the batch, so the set exists
            raise ValueError(f"no parameter set {header.parameter_set}")
        is_signed = self.cases.is_signed(tx.chain, header.operator, header.committed_at)
        judgement = self.judge(case, tx.chain, terms, is_signed)
        if not isinstance(judgement, Right):
            self._open[header.hash] = known, judgement
        return judgement

    def _mirror(self, right: Right, header: Header) -> OperatorLedger:
        ledger = right.batch.after(header)
        with self.db.begin() as mirror:
            mirror.batches.save_ledger(header.operator, ledger)
            final = newest_final(mirror, header.operator)
            if final is not None:
                mirror.batches.prune_ledgers(header.operator, final.number)
        return ledger


def _known(case: Case, *, has_receipts: bool) -> tuple[object, ...]:
    """What a judgement of the case follows from, besides its header."""
    return case.ledger is None, has_receipts, len(case.answers), sum(case.claimed.values())


def _lacks_parent(judgement: Judgement) -> bool:
    return isinstance(judgement, Undecided) and judgement.finding.what == "parent_data"
