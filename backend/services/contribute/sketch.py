"""Sketches of texts by MinHash, many at once.

The pieces of a text are its runs of six bytes, case and blanks aside: about a word of English or two
characters of Chinese. `rensa` hashes them (MIT, Rust, maintained, no dependencies): 20 MB/s here, where
`datasketch` builds a Python object for each text and brings SciPy. Databases keep what it computes, so its
version is pinned, and a test holds it to known sketches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from backend.domain.near_duplicates import SKETCH_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.near_duplicates import Sketch

PIECE_BYTES = 6
SEED = 42
WORD_BYTES = 8
_PIECE_MASK = np.uint64((1 << 8 * PIECE_BYTES) - 1)
# Finalizer of SplitMix64 (Steele, Lea, Flood, 2014): neighbouring pieces must not have neighbouring hashes.
_SPREAD = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def sketches(texts: Sequence[str]) -> list[Sketch]:
    """One for each text, in order. Memory: some fifty times the longest texts given at once."""
    from rensa import RMinHash

    if not texts:
        return []
    pieces, offsets = _pieces(texts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(pieces, offsets, SKETCH_BYTES, SEED)
    low = np.array(matrix.to_rows(), dtype="<u4").astype("<u1")  # [num_texts, SKETCH_BYTES]
    bands: list[list[int]] = low.view("<i8").tolist()
    return [tuple(row) for row in bands]


def _pieces(texts: Sequence[str]) -> tuple[Any, Any]:
    """Hashes of all pieces, text behind text, and where each text's begin: [num_pieces], [num_texts + 1]."""
    plain = [" ".join(text.casefold().split()).encode().ljust(PIECE_BYTES, b"\0") for text in texts]
    joined = b"".join(plain)
    lengths = np.array([len(part) for part in plain])
    # Windows that overlap by all but one byte, read where they lie.
    windows = np.ndarray((len(joined),), "<u8", joined + bytes(WORD_BYTES), strides=(1,)) & _PIECE_MASK
    is_whole = np.ones(len(joined), dtype=bool)
    is_whole[(np.cumsum(lengths)[:, None] - np.arange(1, PIECE_BYTES)).ravel()] = False
    offsets = np.concatenate(([0], np.cumsum(lengths - PIECE_BYTES + 1)))
    return _spread(windows[is_whole]), offsets.astype(np.uint64)


def _spread(pieces: Any) -> Any:
    for shift, factor in _SPREAD:
        pieces ^= pieces >> np.uint64(shift)
        pieces *= np.uint64(factor)
    return pieces ^ (pieces >> np.uint64(31))
