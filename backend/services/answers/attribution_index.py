"""Loads, validates and caches attribution indices, which are untrusted parts of adapter folders."""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.attribution import (
    CHECKPOINT_FILE,
    DISTILLED_ERROR_METHOD,
    DISTILLED_METHOD,
    GRADIENT_METHOD,
    INDEX_FILE,
    INDEX_METADATA,
    MAX_INDEX_BYTES,
)
from backend.domain.errors import InvalidInput
from backend.services.answers.distilled import LinearMap, distilled_features, error_features

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

_ROUNDING = 1e-3
_ENTRY_BYTES = 1024
_ITEM_BYTES = {"F32": 4, "I64": 8}
_TENSORS = ("positions", "rows", "hidden.vectors", "hidden.centre", "error.vectors")
_GRADIENTS = "gradient.vectors"
_MAPS = {DISTILLED_METHOD: "distilled", DISTILLED_ERROR_METHOD: "distilled_error"}
"""Prefix of a map's tensors. A method is in the index if the metadata name it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttributionIndex:
    """Vectors of n contributions for each method."""

    positions: Any  # int64 [n], rising
    rows: Any  # int64 [n], rows of each contribution in the training
    hidden: Any  # float32 [n, hidden], unit norm
    centre: Any  # float32 [hidden], mean of the hidden states
    error: Any  # float32 [n, hidden]
    gradient: Any = None  # float32 [n, sketch size], if requested and computed by the current method
    distilled: LinearMap | None = None
    distilled_error: LinearMap | None = None

    @property
    def maps(self) -> tuple[LinearMap, ...]:
        return tuple(each for each in (self.distilled, self.distilled_error) if each is not None)

    def restricted(self, positions: Sequence[int]) -> AttributionIndex:
        """The index of these contributions. A creator may name any number of others, which would be scored
        for nothing.
        """
        import numpy as np

        chosen = np.isin(self.positions, np.asarray(positions, dtype=np.int64))
        if chosen.all():
            return self
        return AttributionIndex(
            positions=self.positions[chosen],
            rows=self.rows[chosen],
            hidden=self.hidden[chosen],
            centre=self.centre,
            error=self.error[chosen],
            gradient=None if self.gradient is None else self.gradient[chosen],
            distilled=None if self.distilled is None else self.distilled.rows(chosen),
            distilled_error=None if self.distilled_error is None else self.distilled_error.rows(chosen),
        )

    @property
    def num_bytes(self) -> int:
        tensors = (self.positions, self.rows, self.hidden, self.centre, self.error, self.gradient)
        size = sum(int(tensor.nbytes) for tensor in tensors if tensor is not None)
        return size + sum(each.num_bytes for each in self.maps)


def has_gradients(adapter_folder: Path) -> bool:
    """Whether `GRADIENT_METHOD` can attribute answers of the adapter: its checkpoint is there, and its index
    is of this method and no larger than `MAX_INDEX_BYTES` with its gradients.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter_folder / INDEX_FILE, framework="np") as file:
            methods = (file.metadata() or {}).get("methods", "").split()
            num_bytes = _total_bytes(file, _found(file, _names(methods, with_gradients=True)))
    except (OSError, SafetensorError):
        return False
    fits = GRADIENT_METHOD in methods and num_bytes <= MAX_INDEX_BYTES
    return fits and (adapter_folder / CHECKPOINT_FILE).is_file()


class Indices:
    """LRU cache of indices of served adapters, whose folders never change: None for one without an index."""

    def __init__(self, max_bytes: int = MAX_INDEX_BYTES, *, with_gradients: bool = False) -> None:
        """`max_bytes` limits the cache. A single larger index is not used."""
        self._max_bytes = max_bytes
        self._with_gradients = with_gradients
        self._num_bytes = 0
        self._cache: OrderedDict[Path, AttributionIndex | None] = OrderedDict()
        self._lock = threading.Lock()

    def is_loaded(self, adapter_folder: Path) -> bool:
        """Whether `get` answers at once."""
        with self._lock:
            is_cached = adapter_folder in self._cache
        return is_cached or not (adapter_folder / INDEX_FILE).is_file()

    def get(self, adapter_folder: Path) -> AttributionIndex | None:
        """The index; None if there is none, or if it is unusable, which is logged once."""
        with self._lock:
            if adapter_folder in self._cache:
                self._cache.move_to_end(adapter_folder)
                return self._cache[adapter_folder]
        path, index = adapter_folder / INDEX_FILE, None
        if path.is_file():
            try:
                # Without the lock, so that other answers are scored.
                index = load_index(path, self._max_bytes, with_gradients=self._with_gradients)
            except InvalidInput as error:
                log.warning("contributions to %s are attributed equally: %s", adapter_folder.name, error)
        elif not adapter_folder.is_dir():
            return None  # it can be fetched again, with its index
        with self._lock:
            self._keep(adapter_folder, index)
        return index

    def _keep(self, adapter_folder: Path, index: AttributionIndex | None) -> None:
        if adapter_folder in self._cache:  # another thread was faster
            return
        self._cache[adapter_folder] = index
        self._num_bytes += _size(index)
        while self._num_bytes > self._max_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._num_bytes -= _size(oldest)


def load_index(path: Path, max_bytes: int | None = None, *, with_gradients: bool = False) -> AttributionIndex:
    """Raises InvalidInput if the tensors to read have more than `max_bytes`, or are no index of this version.
    Gradients and maps of methods that this version does not know are not read.
    """
    tensors = _read(path, max_bytes, with_gradients=with_gradients)
    index = AttributionIndex(
        positions=tensors["positions"],
        rows=tensors["rows"],
        hidden=tensors["hidden.vectors"],
        centre=tensors["hidden.centre"],
        error=tensors["error.vectors"],
        gradient=tensors.get(_GRADIENTS),
        distilled=_map(tensors, DISTILLED_METHOD),
        distilled_error=_map(tensors, DISTILLED_ERROR_METHOD),
    )
    if not (all(map(_is_finite, tensors.values())) and _is_well_formed(index)):
        raise InvalidInput("The attribution index has tensors of the wrong shape, type or size.")
    return index


def _read(path: Path, max_bytes: int | None, *, with_gradients: bool) -> dict[str, Any]:
    """Tensors of the methods that the metadata name. Raises InvalidInput."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = _names(metadata.get("methods", "").split(), with_gradients=with_gradients)
            found = _found(file, names)
            num_bytes = _total_bytes(file, found)
            if max_bytes is not None and num_bytes > max_bytes:
                raise InvalidInput(f"The attribution index has {num_bytes} bytes, more than {max_bytes}.")
            tensors = {name: file.get_tensor(name) for name in found}
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:  # types that numpy lacks
        raise InvalidInput(f"The attribution index cannot be read: {error}") from error
    if any(metadata.get(name) != value for name, value in INDEX_METADATA.items()):
        raise InvalidInput(f"The attribution index has unknown metadata: {metadata}.")
    if len(tensors) != len(names):
        raise InvalidInput(f"The attribution index lacks {sorted(set(names) - set(tensors))}.")
    return tensors


def _found(file: Any, names: Sequence[str]) -> list[str]:
    """Those of the names that the file has."""
    return [name for name in names if name in file.keys()]  # noqa: SIM118


def _total_bytes(file: Any, names: Sequence[str]) -> int:
    return sum(map(_num_bytes, map(file.get_slice, names)))


def _num_bytes(tensor: Any) -> int:
    """Size of a slice of safetensors. Other types than an index has are refused later; none is larger."""
    num_items: int = math.prod(tensor.get_shape())
    return num_items * _ITEM_BYTES.get(tensor.get_dtype(), 8)


def _names(methods: Collection[str], *, with_gradients: bool) -> list[str]:
    """Names of the tensors to read from an index of these methods."""
    names = [*_TENSORS]
    if with_gradients and GRADIENT_METHOD in methods:
        names.append(_GRADIENTS)
    for method, prefix in _MAPS.items():
        names += [f"{prefix}.weights", f"{prefix}.bias"] if method in methods else []
    return names


def _map(tensors: Mapping[str, Any], method: str) -> LinearMap | None:
    prefix = _MAPS[method]
    weights = tensors.get(f"{prefix}.weights")
    return None if weights is None else LinearMap(weights, tensors[f"{prefix}.bias"])


def _is_well_formed(index: AttributionIndex) -> bool:
    import numpy as np

    positions, rows, hidden, centre = index.positions, index.rows, index.hidden, index.centre
    directions = [part for part in (hidden, index.error, index.gradient) if part is not None]
    if any(part.ndim != 2 or part.dtype != np.float32 or len(part) != positions.size for part in directions):
        return False
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(hidden, axis=1)
    return (
        positions.dtype == rows.dtype == np.int64
        and positions.ndim == centre.ndim == 1
        and positions.shape == rows.shape
        and bool((rows >= 0).all())
        and bool((positions[1:] > positions[:-1]).all())
        and centre.dtype == np.float32
        and hidden.shape == index.error.shape == (positions.size, centre.size)
        and _fits(index.distilled, positions, distilled_features(centre, centre))
        and _fits(index.distilled_error, positions, error_features(centre))
        # Vectors have at most unit norm, so that no score exceeds one.
        and bool((norms <= 1 + _ROUNDING).all())
    )


def _fits(found: LinearMap | None, positions: Any, features: Any) -> bool:
    """Whether the map is from such features to a score for each of the positions."""
    import numpy as np

    return found is None or (
        found.weights.dtype == found.bias.dtype == np.float32
        and found.weights.shape == (positions.size, features.size)
        and found.bias.shape == positions.shape
    )


def _is_finite(tensor: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(tensor).all())


def _size(index: AttributionIndex | None) -> int:
    """Bytes in the cache. Unusable indices have an entry too."""
    return _ENTRY_BYTES + (0 if index is None else index.num_bytes)
