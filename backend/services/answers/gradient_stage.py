"""Attributes charged answers by gradients, after their last chunk, and has their receipts signed.

Prompts and answers wait in memory only. An answer that cannot be attributed in time gets its receipt with the
fallback that its charge was stored with, here or, if this process dies, by settlement once it is overdue.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from backend.domain.errors import DomainError
from backend.ports.gradients import MAX_TOKENS
from backend.services.answers.attribution_index import has_gradients
from backend.services.answers.gradient_job import attributed_by_gradient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.ids import Hash32, VersionId
    from backend.domain.receipt import Attributed
    from backend.domain.serving import NewCharge
    from backend.ports.gradients import Gradients
    from backend.services.answers.gradient_job import GradientJob
    from backend.services.answers.live_agreement import LiveAgreements
    from backend.services.channels.charges import Charges

MAX_WAITING = 256
"""Answers that wait for their gradients, for each API process."""

log = logging.getLogger(__name__)


class GradientStage:
    """The stage of one API process. `seconds`: from an answer to its receipt, at most."""

    def __init__(
        self,
        gradients: Mapping[Hash32, Gradients],
        charges: Charges,
        seconds: float,
        live_agreements: LiveAgreements | None = None,
    ) -> None:
        """`gradients`: by the digest of their base model. `live_agreements`: gets the scores, so that those
        of sampled answers are not computed again.
        """
        self._gradients, self._charges, self._seconds = gradients, charges, seconds
        self._live_agreements = live_agreements
        self._running: set[asyncio.Task[None]] = set()

    @property
    def receipt_seconds(self) -> int:
        return max(1, round(self._seconds))

    def takes(self, job: GradientJob) -> bool:
        """Whether the stage attributes this answer. Otherwise it gets its receipt at once: it has a
        version without gradients of the current method, or too many tokens, or there is no room.
        """
        if job.num_tokens > MAX_TOKENS or len(self._running) >= MAX_WAITING:
            return False
        return all(has_gradients(Path(folder)) for folder in job.request.folders)

    def start(self, charge: NewCharge, job: GradientJob) -> None:
        """Attribute the answer and sign its receipt, in the background."""
        task = asyncio.create_task(self._run(charge, job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Sign what waits with its fallbacks."""
        for gradients in self._gradients.values():
            await gradients.close()
        if self._running:
            await asyncio.wait(set(self._running))

    async def _run(self, charge: NewCharge, job: GradientJob) -> None:
        scores, attributed = await self._attributed(charge, job) or (None, None)
        try:
            if await self._charges.sign(charge, attributed) is None:
                log.info("the receipt of charge %s was signed before", charge.id)
        except DomainError as error:
            log.warning("the receipt of charge %s is signed once it is overdue: %s", charge.id, error)
        if self._live_agreements is not None and scores is not None:
            self._live_agreements.add_scores(charge.interval.response_hash, scores)

    async def _attributed(
        self, charge: NewCharge, job: GradientJob
    ) -> tuple[Mapping[VersionId, Mapping[int, float]], Attributed] | None:
        """Scores by version and shares of an answer; None if it has the fallback."""
        request = replace(job.request, request_id=charge.id, seconds=self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                scores = job.by_version(await self._gradients[job.base].scores(request))
            return scores, attributed_by_gradient(charge.fallback.slices, scores, job.draw)
        except TimeoutError:
            log.warning("charge %s is not attributed by its gradient: it took too long", charge.id)
        except DomainError as error:
            log.warning("charge %s is not attributed by its gradient: %s", charge.id, error)
        except Exception:
            log.exception("charge %s is not attributed by its gradient", charge.id)  # the fallback is signed
        return None
