"""Attribution of an answer to contributions.

`HiddenCosine` compares the mean hidden state of the answer with those of each contribution's rows. It is a
measure of likeness, not of influence: retraining confirms it only weakly (LDS 0.30 in our measurements, where
gradient methods reach 0.74). It stands in until one of those fits its price into an answer.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.attribution import shares_from_scores
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.domain.receipt import Share
    from backend.ports.attribution import Attributor

INDEX_FILE = "attribution.safetensors"
INDEX_VERSION = "1"


@dataclass(frozen=True, slots=True)
class AttributionIndex:
    """What training left in the adapter's folder."""

    positions: Any  # int64 [n]
    vectors: Any  # float32 [n, hidden], unit norm
    centre: Any  # float32 [hidden]


class HiddenCosine:
    """Cosine between the answer's mean hidden state, centred, and each contribution's vector."""

    method = "hidden-cosine-1"

    def __init__(self, max_indices: int = 256) -> None:
        self._max_indices = max_indices
        self._indices: OrderedDict[Path, AttributionIndex] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, adapter_folder: Path) -> None:
        path = adapter_folder / INDEX_FILE
        if path.is_file():
            self._index(path)

    def scores(
        self, adapter_folder: Path, positions: Sequence[int], probe: Sequence[float] | None
    ) -> Mapping[int, float] | None:
        import numpy as np

        path = adapter_folder / INDEX_FILE
        if probe is None or not path.is_file():
            return None
        index = self._index(path)
        state = np.asarray(probe, dtype=np.float32)
        if state.shape != index.centre.shape:
            raise InvalidInput(
                f"The attribution index has hidden size {index.centre.size}, the model {state.size}."
            )
        direction = state - index.centre
        norm = float(np.linalg.norm(direction))
        cosines = index.vectors @ (direction / norm if norm else direction)
        wanted = set(positions)
        scores = zip(index.positions.tolist(), cosines.tolist(), strict=True)
        return {position: score for position, score in scores if position in wanted}

    def _index(self, path: Path) -> AttributionIndex:
        with self._lock:
            index = self._indices.pop(path, None) or load_index(path)
            self._indices[path] = index
            while len(self._indices) > self._max_indices:
                self._indices.popitem(last=False)
            return index


class Uniform:
    """Every contribution alike: for versions without an index, and answers that ended without a probe."""

    method = "uniform-1"

    def prepare(self, adapter_folder: Path) -> None:
        """Needs nothing."""

    def scores(
        self,
        adapter_folder: Path,  # noqa: ARG002
        positions: Sequence[int],
        probe: Sequence[float] | None,  # noqa: ARG002
    ) -> Mapping[int, float]:
        return dict.fromkeys(positions, 1.0)


@dataclass(frozen=True, slots=True)
class Attribution:
    """The shares of an answer and the method they come from."""

    method: str
    shares: tuple[Share, ...]


def attribute(
    attributors: Sequence[Attributor],
    adapter_folder: Path,
    positions: Sequence[int],
    probe: Sequence[float] | None,
) -> Attribution:
    """By the first method that can say. `positions`: the version's accepted contributions, at least one."""
    for attributor in attributors:
        scores = attributor.scores(adapter_folder, positions, probe)
        if scores:
            return Attribution(attributor.method, shares_from_scores(scores))
    raise InvalidInput("No attribution method applies to this version.")


def load_index(path: Path) -> AttributionIndex:
    """Raises InvalidInput where the file is not an index of this method."""
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = ("positions", "vectors", "centre")
            tensors = {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InvalidInput(f"The attribution index is not a safetensors file: {error}") from error
    if metadata.get("method") != HiddenCosine.method or metadata.get("version") != INDEX_VERSION:
        raise InvalidInput(f"The attribution index is of an unknown kind: {metadata}.")
    if len(tensors) != len(names):
        raise InvalidInput(f"The attribution index lacks {sorted(set(names) - set(tensors))}.")
    positions, vectors, centre = (tensors[name] for name in names)
    is_well_formed = (
        positions.dtype == np.int64
        and vectors.dtype == centre.dtype == np.float32
        and vectors.shape == (positions.size, centre.size)
        and bool(np.isfinite(vectors).all() and np.isfinite(centre).all())
    )
    if not is_well_formed:
        raise InvalidInput("The attribution index has tensors of the wrong shape, type or with NaN or Inf.")
    return AttributionIndex(positions, vectors, centre)
