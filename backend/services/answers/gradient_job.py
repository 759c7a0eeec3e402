"""An answer to attribute by its gradient: what the gradient process needs of it, and what its scores mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.attribution import GRADIENT_METHOD, shares_from_scores
from backend.domain.errors import Unavailable
from backend.domain.receipt import Attributed, Slice
from backend.ports.gradients import GradientRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from backend.domain.ids import Hash32, VersionId
    from backend.services.answers.billing import BilledAnswer
    from backend.services.answers.transcript import Transcript
    from inference.protocol import Generate


@dataclass(frozen=True, slots=True)
class GradientJob:
    """`base`: the base model that answered. `request`: without id and time, which its sender adds.
    `positions`: the accepted ones of the version of each folder. `draw`: between equal scores.
    """

    base: Hash32
    request: GradientRequest
    positions: Mapping[VersionId, Sequence[int]]
    draw: int

    @classmethod
    def of(cls, message: Generate, transcript: Transcript, billed: BilledAnswer, base: Hash32) -> Self | None:
        """None if there is nothing to attribute, or if the engine returned tokens without their ids."""
        trained = billed.trained
        choices = zip(transcript.token_ids, transcript.last, strict=True)
        if not trained or not all(token_ids or not last.completion_tokens for token_ids, last in choices):
            return None
        request = GradientRequest(
            request_id="",
            folders=tuple(str(folder) for folder, _ in trained.values()),
            choices=transcript.token_ids,
            num_tokens=transcript.prompt_tokens * len(transcript.token_ids) + transcript.completion_tokens,
            seconds=0,
            messages=message.messages,
            prompt=message.prompt,
            tools=message.tools,
            reasoning_effort=message.reasoning_effort,
        )
        positions = {version: accepted for version, (_, accepted) in trained.items()}
        return cls(base, request, positions, billed.draw)

    @property
    def num_tokens(self) -> int:
        return self.request.num_tokens

    def by_version(self, scores: Sequence[Mapping[int, float]]) -> dict[VersionId, dict[int, float]]:
        """Scores of each version's accepted contributions, from those of the folders.

        Errors: `Unavailable` if a version has no scored contribution.
        """
        found: dict[VersionId, dict[int, float]] = {}
        for (version, positions), scored in zip(self.positions.items(), scores, strict=True):
            found[version] = {position: scored[position] for position in positions if position in scored}
            if not found[version]:
                raise Unavailable(f"no contribution to {version} has a gradient")
        return found


def attributed_by_gradient(
    slices: Sequence[Slice], scores: Mapping[VersionId, Mapping[int, float]], draw: int
) -> Attributed:
    """`slices` with shares by these scores. Errors: `ScoreNotFinite`."""
    shares = {version: shares_from_scores(each, draw) for version, each in scores.items()}
    return Attributed(
        GRADIENT_METHOD,
        tuple(Slice(part.version_id, part.weight_ppm, shares.get(part.version_id, ())) for part in slices),
    )
