"""Attribution of an answer to contributions.

`HiddenCosine` compares the mean hidden state of the answer with those of each contribution's rows. It is a
measure of what a text is about, not of influence, and a weak stand-in for it: how weak is not measured here
yet. It serves until a gradient method fits its price into an answer.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.attribution import HIDDEN_METHOD, INDEX_FILE, INDEX_METADATA, shares_from_scores
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.domain.receipt import Share
    from backend.ports.attribution import Attributor

_ROUNDING = 1e-3
_ENTRY_BYTES = 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttributionIndex:
    """What training left in the adapter's folder."""

    positions: Any  # int64 [n]
    vectors: Any  # float32 [n, hidden], unit norm
    centre: Any  # float32 [hidden]


class HiddenCosine:
    """Cosine between the answer's mean hidden state, centred, and each contribution's vector."""

    method = HIDDEN_METHOD

    def __init__(self, max_bytes: int = 512 << 20) -> None:
        """`max_bytes`: of the indices kept in memory; a larger one is not used at all."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._indices: OrderedDict[Path, AttributionIndex | None] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, adapter_folder: Path) -> None:
        path = adapter_folder / INDEX_FILE
        if path.is_file():
            self._index(path)

    def scores(
        self, adapter_folder: Path, positions: Sequence[int], probe: Sequence[float] | None
    ) -> Mapping[int, float] | None:
        """(1 + cosine) / 2. The bare cosine would give all to one of two: around their centre they are
        opposites, so whatever leans to one leans away from the other.
        """
        import numpy as np

        path = adapter_folder / INDEX_FILE
        if probe is None or not path.is_file():
            return None
        index = self._index(path)
        state = np.asarray(probe, dtype=np.float32)
        if index is None or state.shape != index.centre.shape:
            return None
        direction = state - index.centre
        norm = float(np.linalg.norm(direction))
        cosines = index.vectors @ (direction / norm if norm else direction)
        wanted = set(positions)
        scores = zip(index.positions.tolist(), ((1 + cosines) / 2).tolist(), strict=True)
        return {position: score for position, score in scores if position in wanted}

    def _index(self, path: Path) -> AttributionIndex | None:
        """None, once it was said in the log why, where the file is not an index that can be used."""
        with self._lock:
            if path in self._indices:
                self._indices.move_to_end(path)
                return self._indices[path]
        try:
            index = load_index(path, self._max_bytes)  # without the lock: others score meanwhile
        except InvalidInput as error:
            log.warning("all contributions to %s will count alike: %s", path.parent.name, error)
            index = None
        with self._lock:
            self._keep(path, index)
        return index

    def _keep(self, path: Path, index: AttributionIndex | None) -> None:
        if path in self._indices:  # somebody else was faster
            return
        self._indices[path] = index
        self._num_bytes += _size(index)
        while self._num_bytes > self._max_bytes:
            _, oldest = self._indices.popitem(last=False)
            self._num_bytes -= _size(oldest)


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


def load_index(path: Path, max_bytes: int | None = None) -> AttributionIndex:
    """Raises InvalidInput where the file is larger, or not an index of this version."""
    from safetensors import SafetensorError, safe_open

    num_bytes = path.stat().st_size
    if max_bytes is not None and num_bytes > max_bytes:
        raise InvalidInput(f"The attribution index has {num_bytes} bytes, more than {max_bytes}.")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = ("positions", "hidden.vectors", "hidden.centre")
            tensors = {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:  # types that numpy lacks
        raise InvalidInput(f"The attribution index cannot be read: {error}") from error
    if any(metadata.get(name) != value for name, value in INDEX_METADATA.items()):
        raise InvalidInput(f"The attribution index is of an unknown kind: {metadata}.")
    if len(tensors) != len(names):
        raise InvalidInput(f"The attribution index lacks {sorted(set(names) - set(tensors))}.")
    index = AttributionIndex(*(tensors[name] for name in names))
    if not _is_well_formed(index):
        raise InvalidInput("The attribution index has tensors of the wrong shape, type or size.")
    return index


def _is_well_formed(index: AttributionIndex) -> bool:
    import numpy as np

    positions, vectors, centre = index.positions, index.vectors, index.centre
    if vectors.ndim != 2:
        return False
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1)
    return (
        positions.dtype == np.int64
        and vectors.dtype == centre.dtype == np.float32
        and positions.ndim == centre.ndim == 1
        and vectors.shape == (positions.size, centre.size)
        and bool(np.isfinite(centre).all())
        # NaN fails it too. Vectors of unit norm: no score is larger than one, whatever the answer.
        and bool((norms <= 1 + _ROUNDING).all())
    )


def _size(index: AttributionIndex | None) -> int:
    """Bytes that it occupies; what is known to be unusable takes its place in the books too."""
    tensors = () if index is None else (index.positions, index.vectors, index.centre)
    return _ENTRY_BYTES + sum(int(tensor.nbytes) for tensor in tensors)
