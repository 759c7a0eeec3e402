"""Builds MinHash sketches of texts in batches.

Shingles are runs of six bytes, normalised in case and white space: about an English word or two Chinese
characters. `rensa` hashes them (MIT, Rust, maintained, no dependencies) at 20 MB/s; `datasketch` builds a
Python object per text and depends on SciPy. Sketches are stored in databases, so the version of `rensa` is
pinned, and a test compares its output with known sketches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain.near_duplicates import SKETCH_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.near_duplicates import Sketch

SHINGLE_BYTES = 6
SEED = 42
WORD_BYTES = 8
_SHINGLE_MASK = np.uint64((1 << 8 * SHINGLE_BYTES) - 1)
# Finalizer of SplitMix64 (Steele, Lea, Flood, 2014): similar shingles must not have similar hashes.
_MIX_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def build_sketches(texts: Sequence[str]) -> list[Sketch]:
    """One sketch per text, in order. Takes about fifty times the memory of the texts."""
    from rensa import RMinHash

    if not texts:
        return []
    hashes, offsets = hash_shingles(texts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, SKETCH_BYTES, SEED)
    low = np.array(matrix.to_rows(), dtype="<u4").astype("<u1")  # [num_texts, SKETCH_BYTES]
    bands: list[list[int]] = low.view("<i8").tolist()
    return [tuple(row) for row in bands]


def hash_shingles(texts: Sequence[str]) -> tuple[Any, Any]:
    """(hashes of all shingles uint64 [num_shingles]; offset of each text's first one uint64 [num_texts + 1]).
    A text without six bytes has one shingle.
    """
    normalised = [" ".join(text.casefold().split()).encode().ljust(SHINGLE_BYTES, b"\0") for text in texts]
    joined = b"".join(normalised)
    lengths = np.array([len(part) for part in normalised])
    # Overlapping windows, as a view without copying.
    windows = np.ndarray((len(joined),), "<u8", joined + bytes(WORD_BYTES), strides=(1,)) & _SHINGLE_MASK
    is_whole = np.ones(len(joined), dtype=bool)
    is_whole[(np.cumsum(lengths)[:, None] - np.arange(1, SHINGLE_BYTES)).ravel()] = False
    offsets = np.concatenate(([0], np.cumsum(lengths - SHINGLE_BYTES + 1)))
    return _mix(windows[is_whole]), offsets.astype(np.uint64)


def _mix(shingles: Any) -> Any:
    for shift, factor in _MIX_STEPS:
        shingles ^= shingles >> np.uint64(shift)
        shingles *= np.uint64(factor)
    return shingles ^ (shingles >> np.uint64(31))
