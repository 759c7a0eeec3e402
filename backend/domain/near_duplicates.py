"""Near-duplicate rows: MinHash sketches and their similarity.

A sketch represents the set of shingles of a text. Each of its 64 bytes is equal in two texts with the
probability of their Jaccard similarity (MinHash reduced to 8 bits: Li and Koenig, "b-Bit Minwise Hashing",
2010). Eight consecutive bytes are a band; texts that share a band are compared (locality-sensitive hashing).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account

NUM_BANDS = 8
BAND_BYTES = 8
SKETCH_BYTES = NUM_BANDS * BAND_BYTES
NEAR_PPM = 800_000
"""Similarity from which two rows are near duplicates.

A pair at this threshold shares a band in 77 of 100 cases, a pair at 900,000 ppm in 99: 1 - (1 - s^8)^8.
"""

_packed = struct.Struct(f"<{NUM_BANDS}q").pack

Sketch = tuple[int, ...]
"""`NUM_BANDS` bands as signed 64-bit integers, the type of a database column."""


@dataclass(frozen=True, slots=True)
class NearCopy:
    """Row `line` of an upload nearly duplicates row `of_line` of another upload or of the same one."""

    line: int
    of_upload: str
    of_line: int
    of_account: Account
    of_index: int | None
    """Index of the other contribution, once it is recorded."""
    similarity_ppm: int
    """Estimate with an error of about 50,000."""


@dataclass(frozen=True, slots=True)
class NearCopies:
    """Near duplicates of an upload's rows. They are no defects; curators decide about them."""

    num_in_upload: int
    """Rows that nearly duplicate an earlier row of the same upload."""
    num_in_datanet: int
    """Rows that nearly duplicate a row of another upload to the datanet in this installation."""
    first: tuple[NearCopy, ...]
    """The first hundred of each kind, with the most similar row."""


def similarity_ppm(one: Sequence[int], other: Sequence[int]) -> int:
    """Estimated Jaccard similarity of two sketched texts, corrected for chance equality (1 in 256)."""
    differing = _bits(one) ^ _bits(other)
    excess = 256 * differing.to_bytes(SKETCH_BYTES).count(0) - SKETCH_BYTES
    return max(0, 1_000_000 * excess // (255 * SKETCH_BYTES))


def _bits(sketch: Sequence[int]) -> int:
    return int.from_bytes(_packed(*sketch))
