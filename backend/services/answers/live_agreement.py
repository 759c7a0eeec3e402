"""Measures, on a sample of the served answers, how well their attribution agrees with the gradient.

    held -> sampled by a later block -> measured, or missing
         -> passed over

Prompts and answers are held in memory only, until the first block after the answer is confirmed. That block
chooses (`backend.domain.live_agreement`), and the database counts at once what it samples. An answer that is
not measured then, because there was no room for it, because the gradient process failed or because this
process died, is missing from the figures, and is never left out. The figures change no money.

Several processes may share a database: the first that sees a block samples for all, and each measures what it
holds.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from backend.domain.errors import DomainError, Unavailable
from backend.domain.live_agreement import agreement_ppm, is_sampled
from backend.ports.gradients import MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.chain import BlockRef
    from backend.domain.ids import Hash32, VersionId
    from backend.domain.receipt import Charge, Receipt
    from backend.ports.gradients import Gradients
    from backend.services.answers.gradient_job import GradientJob

MAX_HELD = 8192
"""Answers that wait for their block, for each API process."""
MAX_HELD_NUMBERS = 1 << 20
"""Their tokens and scores together, prompts included: a hundred megabytes at most."""
HELD_SECONDS = 3600
"""Longest time for which a prompt is held, the time of its gradient included."""
COMMITTED_SECONDS = 60
"""Blocks sample after this time: the transactions that store the receipts before them must have ended."""
GRADIENT_SECONDS = 600.0
"""Time for one gradient, which is computed while no other answers wait for theirs. Older answers are dropped
before and after it.
"""
POLL_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """An answer whose block is not known yet: its job and its scores by the default method, or, once the
    gradient stage has scored it, the agreements in ppm.
    """

    served_at: int
    num_numbers: int
    job: GradientJob | None
    scores: Mapping[VersionId, Mapping[int, float]]
    agreements: Mapping[VersionId, int | None] = field(default_factory=dict)


class LiveAgreements:
    """The sample of one API process."""

    def __init__(
        self,
        db: Database,
        block: Callable[[int], BlockRef | None],
        gradients: Mapping[Hash32, Gradients],
        rate_ppm: int,
        clock: Callable[[], datetime],
    ) -> None:
        """`block`: of the chain by its number, None above the head. `gradients`: by the digest of their base
        model. `rate_ppm`: share of the answers that is sampled, the same for all processes of a database; 0:
        none.
        """
        self._db, self._block, self._gradients = db, block, gradients
        self._rate_ppm, self._clock = rate_ppm, clock
        self._held: dict[Hash32, _Held] = {}
        self._num_numbers = 0
        self._num_refused = 0
        self._sampled_by = -1
        """Number of the last block by which this process sampled."""

    def hold(
        self,
        charged: Receipt | Charge,
        job: GradientJob,
        scores: Mapping[VersionId, Mapping[int, float]],
    ) -> None:
        """Keep an answer in memory until its block is known. `scores`: of its contributions by the default
        method. An answer for which there is no room, or with too many tokens, is missing if it is sampled.
        """
        if not self._rate_ppm or job.num_tokens > MAX_TOKENS:
            return
        num_numbers = job.num_tokens + sum(map(len, scores.values()))
        if len(self._held) >= MAX_HELD or self._num_numbers + num_numbers > MAX_HELD_NUMBERS:
            self._num_refused += 1
            return
        self._held[charged.response_hash] = _Held(charged.served_at, num_numbers, job, scores)
        self._num_numbers += num_numbers

    def add_scores(self, answer: Hash32, gradient: Mapping[VersionId, Mapping[int, float]]) -> None:
        """The gradient stage's scores of an answer, by its response hash."""
        held = self._held.get(answer)
        if held is not None:
            agreements = _agreements(held.scores, gradient)
            self._num_numbers -= held.num_numbers
            self._held[answer] = _Held(held.served_at, 0, None, {}, agreements)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sample and measure in the background."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            for gradients in self._gradients.values():
                await gradients.close()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            try:
                if not self._rate_ppm:
                    await asyncio.to_thread(self._stop)
                    return
                await self.run_once()
            except DomainError as error:
                log.warning("cannot sample answers: %s", error)
            except Exception:
                log.exception("cannot sample answers")
            await asyncio.sleep(POLL_SECONDS)

    async def run_once(self) -> None:
        """Sample by the blocks that are confirmed, and measure the sampled answers that are held here."""
        if self._num_refused:
            log.warning("no room for %d answers: they are missing if they are sampled", self._num_refused)
            self._num_refused = 0
        self._drop_old()  # also while the node or the database does not answer
        until = await asyncio.to_thread(self._sample)
        over = [answer for answer, held in self._held.items() if held.served_at < until]
        sampled = await asyncio.to_thread(self._pending, over)
        for answer in over:
            if answer not in sampled:
                self._drop(answer)
        for answer in over:
            if answer in sampled and answer in self._held:
                try:
                    await self._measure(answer, self._held[answer])
                finally:
                    self._drop(answer)
                    self._drop_old()

    def _drop_old(self) -> None:
        """Drop the answers that would be held for too long while one gradient is computed."""
        first = self._now() - HELD_SECONDS + int(GRADIENT_SECONDS)
        old = [answer for answer, held in self._held.items() if held.served_at < first]
        for answer in old:
            self._drop(answer)
        if old:
            log.warning("dropped %d answers after too long: they are missing if they are sampled", len(old))

    def _drop(self, answer: Hash32) -> None:
        self._num_numbers -= self._held.pop(answer).num_numbers

    async def _measure(self, answer: Hash32, held: _Held) -> None:
        try:
            agreements = held.agreements
            if held.job is not None:
                agreements = await self._compute(answer, held, held.job)
            await asyncio.to_thread(self._store, answer, agreements)
        except (TimeoutError, DomainError) as error:
            reason = str(error) or "out of time"
            log.warning("the live agreement of answer %s is missing: %s", answer, reason)

    async def _compute(self, answer: Hash32, held: _Held, job: GradientJob) -> dict[VersionId, int | None]:
        request = replace(
            job.request, request_id=f"live {answer}", seconds=GRADIENT_SECONDS, is_background=True
        )
        async with asyncio.timeout(GRADIENT_SECONDS):
            scores = await self._gradients[job.base].scores(request)
        return _agreements(held.scores, job.by_version(scores))

    def _now(self) -> int:
        return int(self._clock().timestamp())

    def _stop(self) -> None:
        """Answers that are served while sampling is off are not missing once it is on."""
        with self._db.begin() as tx:
            tx.live_agreements.stop()

    def _pending(self, answers: Sequence[Hash32]) -> set[Hash32]:
        with self._db.read() as tx:
            return tx.live_agreements.pending(answers)

    def _store(self, answer: Hash32, agreements: Mapping[VersionId, int | None]) -> None:
        with self._db.begin() as tx:
            tx.live_agreements.measure(answer, agreements)

    def _sample(self) -> int:
        """Sample by one confirmed block after another. Returns until when answers were served that are
        sampled or passed over now, in unix seconds.
        """
        while True:
            with self._db.read() as tx:
                head, since = tx.chain.cursor(), tx.live_agreements.served_until()
                first = None if since is None else tx.live_agreements.first_served(since)
            if since is None:
                with self._db.begin() as tx:
                    tx.live_agreements.start(self._now())
                continue
            if head is None or first is None or self._block(head.number) != head:
                return since
            block = first_block_after(self._known_block, head, first, self._sampled_by)
            if block is None or block.timestamp > self._now() - COMMITTED_SECONDS:
                return since
            self._sample_by(block, since)
            self._sampled_by = block.number

    def _known_block(self, number: int) -> BlockRef:
        block = self._block(number)
        if block is None:
            raise Unavailable(f"the node does not know block {number}")
        return block

    def _sample_by(self, block: BlockRef, since: int) -> None:
        with self._db.read() as tx:
            served = tx.live_agreements.served(since, block.timestamp)
            chosen = (receipt for receipt, answer in served if is_sampled(block.hash, answer, self._rate_ppm))
            sampled = array("q", chosen)  # 8 bytes each, however many a long outage leaves
        with self._db.begin() as tx:
            tx.live_agreements.sample(since, block.timestamp, sampled, self._now() - HELD_SECONDS)


def first_block_after(
    block: Callable[[int], BlockRef], head: BlockRef, instant: int, near: int = -1
) -> BlockRef | None:
    """The first block up to `head` with a timestamp above `instant`; None if there is none. Timestamps never
    fall. `near`: number of a block that probably is a little earlier, from which the search begins.
    """
    if head.timestamp <= instant:
        return None
    before, after, step = -1, head, 1
    if 0 <= near < head.number and block(near).timestamp <= instant:
        before = near
        while before + step < after.number:  # forwards, in growing steps
            found = block(before + step)
            if found.timestamp > instant:
                after = found
            else:
                before, step = found.number, 2 * step
    while after.number - before > 1:
        found = block((after.number + before) // 2)
        if found.timestamp > instant:
            after = found
        else:
            before = found.number
    return after


def _agreements(
    scores: Mapping[VersionId, Mapping[int, float]], gradient: Mapping[VersionId, Mapping[int, float]]
) -> dict[VersionId, int | None]:
    return {version: agreement_ppm(scores[version], found) for version, found in gradient.items()}
