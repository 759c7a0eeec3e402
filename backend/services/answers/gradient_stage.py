"""Attributes charged answers by gradients, after their last chunk, and has their receipts signed.

Prompts and answers wait in memory only. An answer that cannot be attributed in time gets its receipt with the
fallback that its charge was stored with, here or, if this process dies, by settlement once it is overdue.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from backend.domain.attribution import CHECKPOINT_FILE, GRADIENT_METHOD, shares_from_scores
from backend.domain.errors import DomainError, Unavailable
from backend.domain.receipt import Attributed, Slice
from backend.ports.gradients import MAX_TOKENS, GradientRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.domain.ids import VersionId
    from backend.domain.receipt import Share
    from backend.domain.serving import NewCharge
    from backend.ports.gradients import Gradients
    from backend.services.answers.billing import Trained
    from backend.services.answers.transcript import Transcript
    from backend.services.channels.charges import Charges
    from inference.protocol import Generate

MAX_WAITING = 256
"""Answers that wait for their gradients, for each API process."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GradientJob:
    """An answer to attribute: the request, and the accepted positions of the version of each folder."""

    request: GradientRequest
    positions: Mapping[VersionId, Sequence[int]]

    def attributed(self, slices: Sequence[Slice], scores: Sequence[Mapping[int, float]]) -> Attributed:
        """`slices` with shares by these scores, which belong to the folders. Errors: `InvalidInput`, and
        `Unavailable` if a version has no scored contribution.
        """
        shares: dict[VersionId, tuple[Share, ...]] = {}
        for (version, positions), found in zip(self.positions.items(), scores, strict=True):
            known = {position: found[position] for position in positions if position in found}
            if not known:
                raise Unavailable(f"no contribution to {version} has a gradient")
            shares[version] = shares_from_scores(known)
        return Attributed(
            GRADIENT_METHOD,
            tuple(
                Slice(part.version_id, part.weight_ppm, shares.get(part.version_id, ())) for part in slices
            ),
        )


class GradientStage:
    """The stage of one API process. `seconds`: from an answer to its receipt, at most."""

    def __init__(self, gradients: Gradients, charges: Charges, seconds: float) -> None:
        self._gradients, self._charges, self._seconds = gradients, charges, seconds
        self._running: set[asyncio.Task[None]] = set()

    @property
    def receipt_seconds(self) -> int:
        return max(1, round(self._seconds))

    def job(self, message: Generate, transcript: Transcript, trained: Trained) -> GradientJob | None:
        """None if the answer gets its receipt at once: it has nothing to attribute, a version without a
        checkpoint, or too many tokens, or there is no room.
        """
        # The gradient of each choice takes a pass over the prompt.
        num_tokens = transcript.prompt_tokens * len(transcript.token_ids) + transcript.completion_tokens
        if not trained or num_tokens > MAX_TOKENS or len(self._running) >= MAX_WAITING:
            return None
        folders = [folder for folder, _ in trained.values()]
        if not all((folder / CHECKPOINT_FILE).is_file() for folder in folders):
            return None
        request = GradientRequest(
            request_id="",
            folders=tuple(map(str, folders)),
            choices=transcript.token_ids,
            seconds=self._seconds,
            messages=message.messages,
            prompt=message.prompt,
            tools=message.tools,
            reasoning_effort=message.reasoning_effort,
        )
        return GradientJob(request, {version: positions for version, (_, positions) in trained.items()})

    def start(self, charge: NewCharge, job: GradientJob) -> None:
        """Attribute the answer and sign its receipt, in the background."""
        task = asyncio.create_task(self._run(charge, job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Sign what waits with its fallbacks."""
        await self._gradients.close()
        if self._running:
            await asyncio.wait(set(self._running))

    async def _run(self, charge: NewCharge, job: GradientJob) -> None:
        attributed = await self._attributed(charge, job)
        try:
            if await self._charges.sign(charge, attributed) is None:
                log.info("the receipt of charge %s was signed before", charge.id)
        except DomainError as error:
            log.warning("the receipt of charge %s is signed once it is overdue: %s", charge.id, error)

    async def _attributed(self, charge: NewCharge, job: GradientJob) -> Attributed | None:
        try:
            async with asyncio.timeout(self._seconds):
                scores = await self._gradients.scores(replace(job.request, request_id=charge.id))
            return job.attributed(charge.fallback.slices, scores)
        except TimeoutError:
            log.warning("charge %s is not attributed by its gradient: it took too long", charge.id)
        except DomainError as error:
            log.warning("charge %s is not attributed by its gradient: %s", charge.id, error)
        except Exception:
            log.exception("charge %s is not attributed by its gradient", charge.id)  # the fallback is signed
        return None
