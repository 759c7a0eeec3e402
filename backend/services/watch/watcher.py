"""Watches all batches that are not final: judges them, reports, and challenges wrong ones if configured.

    follow the chain -> answer demands -> judge -> demand or prove -> refund voided batches

It uses the chain and public batch data only. A pass may be interrupted anywhere; the next one continues from
the state of the chain, and from the outbox of what was sent.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.batch import Header, OperatorLedger
from backend.domain.chain import ChainReplaced
from backend.domain.errors import Unavailable
from backend.domain.ids import ZERO_HASH
from backend.domain.judging.case import Finding, Right, Undecided, Wrong
from backend.domain.judging.claims import below_claimed
from backend.domain.money import in_dollars
from backend.domain.settlement import BatchState
from backend.services.audit.auditor import newest_final
from backend.services.audit.published import TOO_LARGE, BatchTooLarge
from backend.services.watch.news import News, news
from backend.services.watch.retired_keys import disowned, retirements

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account, Hash32
    from backend.domain.judging.case import Case, IsSigned, Judgement, Registry
    from backend.domain.parameters import ParameterSet
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain import Chain
    from backend.services.audit.cases import Cases
    from backend.services.audit.published import BatchReceipts
    from backend.services.watch.answers import Answers
    from backend.services.watch.challenge import Challenge

log = logging.getLogger(__name__)

_NO_DATA: BatchReceipts = (None, None)

POLL_SECONDS = 0.25
MAX_PAUSE_SECONDS = 60.0
"""Maximum pause between attempts while node or store are unreachable; pauses double from `POLL_SECONDS`."""
TURN_SECONDS = 60.0
"""After so much time a pass turns to the next operator, and the next pass goes on with this one: an operator
may serve each of many batches slowly, or have so many to refund. Demands on the own operator are answered
again after so much time.
"""
PATIENCE_PART = 16
"""Batch data counts as withheld if it is missing after this fraction of the dispute window."""


@dataclass
class Watcher:
    """`follow` updates the view.

    Without `challenge` the watcher only reports; without `answers` it answers no demands. It answers for
    `own` only, unless `answers_for_all`. It reports faults of `own` but never challenges them. With `only` it
    watches one operator.
    """

    follow: Callable[[], None]
    db: Database
    chain: Chain
    cases: Cases
    judge: Callable[[Case, Registry, ParameterSet, IsSigned], Judgement]
    challenge: Challenge | None = None
    answers: Answers | None = None
    own: Account | None = None
    answers_for_all: bool = False
    only: Account | None = None
    carry_on: Callable[[], None] | None = None
    """One pass of the sender: keeps on sending what earlier passes queued."""
    evidence: Callable[[], Sequence[SignedReceipt]] = tuple
    """Receipts signed by operators, from other sources."""
    clock: Callable[[], float] = time.monotonic
    _turn_ends_at: float = 0.0
    _answered_at: float = math.inf
    """When demands on `own` were answered last."""
    _unfinished: set[Account] = field(default_factory=set)
    """Operators whose newest batch the latest pass did not reach, or whose refunds it did not finish."""
    _reached: dict[Account, dict[Hash32, BatchReceipts | None]] = field(default_factory=dict)
    """Of each operator, the batches that passes have reached since they last began with the oldest; with the
    finding for data that is missing, which is not asked for again before all were reached.
    """
    _newest: dict[Account, tuple[Hash32, int]] = field(default_factory=dict)
    """Of each operator when the pass began, its newest batch and the number of its newest final one."""
    _settled: dict[Account, tuple[Hash32, int]] = field(default_factory=dict)
    """The same of each operator whose batches were all final and judged at its last turn. A reorganisation
    can make a final batch pending.
    """
    _reported: set[tuple[object, ...]] = field(default_factory=set)
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

    def run(self, stop: threading.Event) -> Iterator[News]:
        """One pass per block until `stop` is set, more while one is unfinished. Waits while node or store are
        unreachable.
        """
        pause, logged, seen = POLL_SECONDS, "", None
        while not stop.is_set():
            try:
                head = self.chain.head()
                if head != seen or self._unfinished:
                    operators = self._operators()
                    if stop.is_set():
                        return  # the view may lack blocks
                    for one in self._turns(operators):
                        yield one
                        if stop.is_set():
                            return
                pause, logged, seen = POLL_SECONDS, "", head
            except Unavailable as error:
                seen = None
                if str(error) != logged:  # log each error once, not every minute
                    log.warning("watcher waits: %s", error)
                pause, logged = min(2 * pause, MAX_PAUSE_SECONDS), str(error)
            stop.wait(pause)

    def run_once(self) -> Iterator[News]:
        """Passes until none is unfinished; yields each report once.

        Errors: as of `_operators` and, in the end, of `_turns`.
        """
        unavailable: Unavailable | None = None
        while True:
            operators = self._operators()
            try:
                yield from self._turns(operators)
            except Unavailable as error:
                unavailable = error
            if not self._unfinished:
                break
        if unavailable is not None:
            raise unavailable

    def _operators(self) -> list[Account]:
        """Updates the view. The operators with a batch, and others whose retired keys are to be reported.

        Errors: `ChainReplaced`, `Unavailable`.
        """
        if self.carry_on is not None:
            self.carry_on()
        self.follow()
        with self.db.read() as tx:
            self._newest = {
                operator: (newest, tx.chain.finalised(operator))
                for operator, newest in tx.chain.newest_batches().items()
            }
            others = self._without_batch(tx)
        return [one for one in (*self._newest, *others) if self.only in (None, one)]

    def _without_batch(self, tx: UnitOfWork) -> list[Account]:
        """Operators that committed no batch: those of the evidence, and `only`."""
        channels = tx.chain.known_channels({signed.receipt.channel_id for signed in self.evidence()})
        named = {channel.operator for channel in channels.values()}
        if self.only is not None:
            named.add(self.only)
        return sorted(named - self._newest.keys())

    def _turns(self, operators: Sequence[Account]) -> Iterator[News]:
        """One pass. Errors: `ChainReplaced`; `Unavailable`, once it has tried all operators, because what one
        of them publishes may be the reason.
        """
        unavailable: Unavailable | None = None
        self._unfinished.intersection_update(operators)
        for step, operator in self._schedule(operators):
            self._turn_ends_at = self.clock() + TURN_SECONDS
            try:
                yield from self._new(self._isolated(step, operator))
            except Unavailable as error:
                unavailable = error
        if unavailable is not None:
            raise unavailable

    def _schedule(
        self, operators: Sequence[Account]
    ) -> Iterator[tuple[Callable[[Account], Iterator[News]], Account]]:
        """Demands first, because an answer that comes too late costs stake; those on `own` again after slow
        turns of others. Then operators are watched in the order of our open bonds on them, least first, so
        that one operator that withholds many leaves does not take the whole limit of bonds in each pass.
        """
        for operator in operators:
            if operator == self.own or (self.answers_for_all and not self._is_settled(operator)):
                yield self._answer, operator
        for operator in self._least_bound_first(operators):
            if self.own is not None and self._must_answer_again():
                yield self._answer, self.own
            yield self._watch, operator

    def _least_bound_first(self, operators: Sequence[Account]) -> Sequence[Account]:
        if self.challenge is None:
            return operators
        with self.db.read() as tx:
            bound = self.challenge.bound(tx.chain)
        return sorted(operators, key=lambda one: bound.get(one, 0))

    def _is_turn_over(self) -> bool:
        return self.clock() > self._turn_ends_at

    def _isolated(self, step: Callable[[Account], Iterator[News]], operator: Account) -> Iterator[News]:
        """Run a step so that its failure for one operator does not affect the others."""
        try:
            yield from step(operator)
        except (Unavailable, ChainReplaced):
            raise
        except Exception as error:
            log.exception("%s cannot be watched", operator)
            yield News("unjudged", operator, 0, ZERO_HASH, f"cannot be watched: {error}")

    def _answer(self, operator: Account) -> Iterator[News]:
        if self.answers is not None:
            if operator == self.own:
                self._answered_at = self.clock()
            self.follow()
            yield from self.answers.answer(operator)

    def _must_answer_again(self) -> bool:
        return self.clock() > self._answered_at + TURN_SECONDS

    def _new(self, found: Iterator[News]) -> Iterator[News]:
        for one in found:
            key = (one.what, one.batch_hash, one.message, one.tx_hash)
            if key not in self._reported:
                self._reported.add(key)
                yield one

    def _is_settled(self, operator: Account) -> bool:
        """Whether a pass has nothing to do for the operator: nothing is pending, and it committed no more."""
        return operator in self._settled and self._settled[operator] == self._newest.get(operator)

    def _watch(self, operator: Account) -> Iterator[News]:
        with self.db.read() as tx:
            yield from retirements(tx.chain, self.cases, operator, self.evidence())
        if not self._is_settled(operator):
            yield from self._watch_batches(operator)

    def _watch_batches(self, operator: Account) -> Iterator[News]:
        challenge = None if operator == self.own else self.challenge
        if operator not in self._unfinished:
            self._reached[operator] = {}
        self._unfinished.discard(operator)
        with self.db.read() as tx:
            if challenge is not None:
                late = list(challenge.expire(tx.chain, operator))
                yield from late
                if any(one.what == "proved" for one in late):
                    return  # the next pass sees what the conviction voided
            batches = tx.chain.valid_batches(operator, max(self._last_judged(tx, operator) - 1, 0))
            ledger, start = self._resume(tx, batches)
            if ledger is not None:
                self._with_large.discard(operator)  # the walk adds it again for a large batch after these
            pending = (batch for batch in batches[:start] if batch.state is not BatchState.FINAL)
            yield from (news(batch, "right", _sums(batch)) for batch in pending)
            for batch, judgement in self._judgements(tx, batches, ledger, start, self._reached[operator]):
                yield from self._act(tx, batch, judgement, challenge)
                if isinstance(judgement, Wrong) and batch.state is not BatchState.FINAL:
                    break  # a conviction voids all pending batches
                del judgement  # a batch that is right, before the data of the next is in memory
            if self.challenge is not None:
                is_unfinished = yield from self.challenge.restore(tx.chain, operator, self._is_turn_over)
                if is_unfinished:
                    self._unfinished.add(operator)
            is_final = bool(batches) and batches[-1].state is BatchState.FINAL
            if is_final and operator not in self._unfinished and not tx.chain.void_batches(operator):
                self._settled[operator] = batches[-1].hash, tx.chain.finalised(operator)

    def _act(
        self, tx: UnitOfWork, batch: CommittedBatch, judgement: Judgement, challenge: Challenge | None
    ) -> Iterator[News]:
        is_final = batch.state is BatchState.FINAL
        if isinstance(judgement, Right):
            if not is_final:
                yield news(batch, "right", _sums(batch))
            yield from disowned(tx.chain, self.cases, batch, judgement.batch, self.evidence())
        elif judgement.finding.what == TOO_LARGE:
            yield news(batch, "unjudged", judgement.finding.message)
        elif is_final:
            yield news(batch, "wrong", f"final, and {judgement.finding.message}")
        elif isinstance(judgement, Wrong):
            yield news(batch, "wrong", judgement.finding.message)
            if challenge is not None:
                yield from challenge.prove(batch, judgement.proof)
        elif judgement.finding.what != "data_missing" or not self._may_still_come(tx, batch):
            yield news(batch, "withheld", judgement.finding.message)
            if challenge is not None:
                yield from self._demand(batch, judgement, challenge)

    def _demand(self, batch: CommittedBatch, judgement: Undecided, challenge: Challenge) -> Iterator[News]:
        """Demand on the newest view, with the demands on the batches before; they may have taken long."""
        with self.db.read() as tx:
            sent = list(challenge.demand(tx.chain, batch, judgement.demands))
        yield from sent
        if any(one.tx_hash for one in sent):
            self.follow()
        if self.own is not None and self._must_answer_again():
            yield from self._isolated(self._answer, self.own)

    def _may_still_come(self, tx: UnitOfWork, batch: CommittedBatch) -> bool:
        terms = tx.chain.parameter_set(int(batch.header["parameterSet"]))
        patience = 0 if terms is None else terms.dispute_window // PATIENCE_PART
        return self.chain.head().timestamp < int(batch.header["committedAt"]) + patience

    # --- judging, each batch on the ledger of the one before ---

    def _judgements(
        self,
        tx: UnitOfWork,
        batches: Sequence[CommittedBatch],
        ledger: OperatorLedger | None,
        start: int,
        reached: dict[Hash32, BatchReceipts | None],
    ) -> Iterator[tuple[CommittedBatch, Judgement]]:
        """Judge the batches from index `start` on, until the turn is over; `ledger` is the one before it."""
        if (found := self._below_claimed(tx, batches[:start])) is not None:
            yield found
        for place in range(start, len(batches)):
            batch, parent = batches[place], batches[place - 1] if place else None
            is_reached = batch.hash in reached
            judgement, ledger = self._judgement(tx, batch, parent, ledger, reached), None
            if isinstance(judgement, Right):
                self._cleared[batch.hash] = len(self.evidence())
                ledger = self._mirror(judgement, Header.from_chain(batch.header))
            elif batch.state is BatchState.FINAL:
                self._beyond[batch.operator] = batch.hash
            yield batch, judgement
            del judgement  # as its receiver does
            # Not after one that an earlier pass reached, so that each pass gets further.
            if not is_reached and batch != batches[-1] and self._is_turn_over():
                self._unfinished.add(batch.operator)
                return

    def _last_judged(self, tx: UnitOfWork, operator: Account) -> int:
        """Number of the newest final batch that is judged; 0 if none is."""
        known = [newest_final(tx, operator)]
        if operator in self._beyond:
            known.append(tx.chain.batch(self._beyond[operator]))
        final = (one.number for one in known if one is not None and one.state is BatchState.FINAL)
        return max(final, default=0)

    def _resume(self, tx: UnitOfWork, batches: Sequence[CommittedBatch]) -> tuple[OperatorLedger | None, int]:
        """The newest stored ledger, and the index of the batch after it. `batches` begin with the first one,
        or with one that `_last_judged` found.
        """
        for place in range(len(batches), 0, -1):
            newest = batches[place - 1]
            if newest.state is BatchState.FINAL and newest.hash == self._beyond.get(newest.operator):
                return None, place
            ledger = tx.batches.ledger(newest.operator, newest.hash)
            if ledger is not None and self._is_cleared(newest):
                return ledger, place
        return OperatorLedger(), 0

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


def _sums(batch: CommittedBatch) -> str:
    header = batch.header
    return f"{header['receiptsCount']} receipts, {in_dollars(int(header['total']))}, every one right"
