"""Attribution of an answer to contributions.

Each method compares a vector of the answer with one of each contribution, which training stored in the
adapter's folder. docs/attribution.md measures how well each predicts influence.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from backend.domain.attribution import (
    DISTILLED_ERROR_METHOD,
    DISTILLED_METHOD,
    ERROR_METHOD,
    GRADIENT_METHOD,
    HIDDEN_METHOD,
    UNIFORM_METHOD,
    shares_from_scores,
)
from backend.domain.errors import InvalidInput
from backend.ports.attribution import Probe
from backend.services.answers.distilled import distilled_features, error_features

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.domain.receipt import Share
    from backend.ports.attribution import Attributor
    from backend.services.answers.attribution_index import AttributionIndex, Indices
    from inference.protocol import ProbeStates


class ByIndex:
    """A method that uses the attribution index in the adapter's folder."""

    method: str

    def __init__(self, indices: Indices) -> None:
        self._indices = indices

    def is_prepared(self, adapter_folder: Path) -> bool:
        return self._indices.is_loaded(adapter_folder)

    def prepare(self, adapter_folder: Path) -> None:
        self._indices.get(adapter_folder)

    def scores(
        self, adapter_folder: Path, positions: Sequence[int], probe: Probe
    ) -> Mapping[int, float] | None:
        index = self._indices.get(adapter_folder)
        if index is None:
            return None
        index = index.restricted(positions)
        found = self.score(index, probe)
        return None if found is None else dict(zip(index.positions.tolist(), found.tolist(), strict=True))

    @abstractmethod
    def score(self, index: AttributionIndex, probe: Probe) -> Any | None:
        """Scores [n] of the index's contributions; None if index or probe lack what the method compares."""


class Distilled(ByIndex):
    """Linear map from an answer's vectors to the scores that its gradient would have."""

    method = DISTILLED_METHOD

    def score(self, index: AttributionIndex, probe: Probe) -> Any | None:
        if index.distilled is None or probe.hidden is None or probe.error is None:
            return None
        if not len(probe.hidden) == len(probe.error) == index.centre.size:
            return None
        return index.distilled.scores(distilled_features(probe.hidden, probe.error))


class DistilledError(ByIndex):
    """As `Distilled`, from the error vector alone."""

    method = DISTILLED_ERROR_METHOD

    def score(self, index: AttributionIndex, probe: Probe) -> Any | None:
        if index.distilled_error is None or probe.error is None or len(probe.error) != index.centre.size:
            return None
        return index.distilled_error.scores(error_features(probe.error))


class Ridge(ByIndex):
    """Dot product of the answer's vector with each contribution's preconditioned vector: how much training on
    its rows changed the model towards the answer.
    """

    def __init__(self, indices: Indices, part: Literal["error", "gradient"]) -> None:
        super().__init__(indices)
        self.method = ERROR_METHOD if part == "error" else GRADIENT_METHOD
        self._part = part

    def score(self, index: AttributionIndex, probe: Probe) -> Any | None:
        import numpy as np

        vector: Sequence[float] | None = getattr(probe, self._part)
        directions = getattr(index, self._part)
        if vector is None or directions is None or len(vector) != directions.shape[1]:
            return None
        # In fp64 no product of finite fp32 numbers overflows.
        return directions.astype(np.float64) @ np.asarray(vector, dtype=np.float64)


class HiddenCosine(ByIndex):
    """Cosine between the answer's mean hidden state, centred, and each contribution's vector."""

    method = HIDDEN_METHOD

    def score(self, index: AttributionIndex, probe: Probe) -> Any | None:
        """(1 + cosine) / 2. With the cosine alone one of two contributions would get everything: around their
        centre the two vectors are opposite.
        """
        import numpy as np

        if probe.hidden is None or len(probe.hidden) != index.centre.size:
            return None
        direction = np.asarray(probe.hidden, dtype=np.float32) - index.centre
        norm = float(np.linalg.norm(direction))
        return (1 + index.hidden @ (direction / norm if norm else direction)) / 2


class Uniform:
    """Equal scores: for versions without an index, and answers that ended without a probe."""

    method = UNIFORM_METHOD

    def is_prepared(self, adapter_folder: Path) -> bool:  # noqa: ARG002
        return True

    def prepare(self, adapter_folder: Path) -> None:
        """Needs nothing."""

    def scores(
        self,
        adapter_folder: Path,  # noqa: ARG002
        positions: Sequence[int],
        probe: Probe,  # noqa: ARG002
    ) -> Mapping[int, float]:
        return _alike(positions)


@dataclass(frozen=True, slots=True)
class Attribution:
    """Shares of an answer and the method that computed them."""

    method: str
    shares: Sequence[Share]


def attribute(
    attributors: Sequence[Attributor],
    adapter_folder: Path,
    positions: Sequence[int],
    probe: Probe,
    draw: int = 0,
) -> Attribution:
    """Attribute by the first applicable method. `positions`: the version's accepted contributions, at least
    one. `draw`: see `answer_draw`.
    """
    method, (scores,) = score_all(attributors, [(adapter_folder, positions)], probe)
    return Attribution(method, shares_from_scores(scores, draw))


def score_all(
    attributors: Sequence[Attributor], versions: Sequence[tuple[Path, Sequence[int]]], probe: Probe
) -> tuple[str, list[Mapping[int, float]]]:
    """Score an answer of several versions by one method, the first that applies to all of them.

    The contributions of a version to which `uniform-1` alone applies count alike by any method: otherwise a
    payer could have those of every version count alike, by a blend with such a version.
    """
    for attributor in attributors:
        scores = [attributor.scores(*version, probe) for version in versions]
        missing = [version for version, found in zip(versions, scores, strict=True) if not found]
        if any(scores) and not any(_is_scored(attributors, version, probe) for version in missing):
            pairs = zip(versions, scores, strict=True)
            return attributor.method, [found or _alike(positions) for (_, positions), found in pairs]
    raise InvalidInput("No attribution method applies to this version.")


def _is_scored(attributors: Sequence[Attributor], version: tuple[Path, Sequence[int]], probe: Probe) -> bool:
    """Whether a method other than `uniform-1` applies."""
    return any(each.method != UNIFORM_METHOD and each.scores(*version, probe) for each in attributors)


def _alike(positions: Sequence[int]) -> Mapping[int, float]:
    return dict.fromkeys(positions, 1.0)


def answer_probe(states: ProbeStates | None) -> Probe | None:
    """The probe of an answer from the engine's states; None where the engine computed none for the answer."""
    if states is None or (states.answer is None and states.error is None):
        return None
    return Probe(states.answer, states.error)
