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

from backend.domain.chain import ChainReplaced
from backend.domain.errors import Unavailable
from backend.domain.ids import ZERO_HASH
from backend.domain.judging.case import Right, Undecided, Wrong
from backend.domain.money import in_dollars
from backend.domain.settlement import BatchState
from backend.services.audit.published import TOO_LARGE
from backend.services.watch.judgements import Judgements
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
    from backend.services.watch.answers import Answers
    from backend.services.watch.challenge import Challenge

log = logging.getLogger(__name__)

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
    judgements: Judgements = field(init=False)
    _turn_ends_at: float = 0.0
    _answered_at: float = math.inf
    """When demands on `own` were answered last."""
    _unfinished: set[Account] = field(default_factory=set)
    """Operators whose newest batch the latest pass did not reach, or whose refunds it did not finish."""
    _newest: dict[Account, tuple[Hash32, int]] = field(default_factory=dict)
    """Of each operator when the pass began, its newest batch and the number of its newest final one."""
    _settled: dict[Account, tuple[Hash32, int]] = field(default_factory=dict)
    """The same of each operator whose batches were all final and judged at its last turn. A reorganisation
    can make a final batch pending.
    """
    _reported: set[tuple[object, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.judgements = Judgements(self.db, self.cases, self.judge, self.evidence)

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
            self.judgements.begin_again(operator)
        self._unfinished.discard(operator)
        with self.db.read() as tx:
            if challenge is not None:
                late = list(challenge.expire(tx.chain, operator))
                yield from late
                if any(one.what == "proved" for one in late):
                    return  # the next pass sees what the conviction voided
            batches, start, ledger = self.judgements.resume(tx, operator)
            pending = (batch for batch in batches[:start] if batch.state is not BatchState.FINAL)
            yield from (news(batch, "right", _sums(batch)) for batch in pending)
            for batch, judgement, is_new in self.judgements.walk(tx, batches, start, ledger):
                yield from self._act(tx, batch, judgement, challenge)
                if isinstance(judgement, Wrong) and batch.state is not BatchState.FINAL:
                    break  # a conviction voids all pending batches
                del judgement  # a batch that is right, before the data of the next is in memory
                # Not after one that an earlier pass reached, so that each pass gets further.
                if is_new and batch != batches[-1] and self._is_turn_over():
                    self._unfinished.add(operator)
                    break
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


def _sums(batch: CommittedBatch) -> str:
    header = batch.header
    return f"{header['receiptsCount']} receipts, {in_dollars(int(header['total']))}, every one right"
