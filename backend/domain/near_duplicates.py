"""Rows that say nearly the same: sketches of rows, and how alike two of them are.

A sketch stands for the set of short pieces that a text is made of. Of two texts, each of its 64 bytes is the
same with the probability of their Jaccard similarity (MinHash, kept to 8 bits: Li and Koenig, "b-Bit Minwise
Hashing", 2010); eight bytes in a row are a band, and texts that share a band are worth comparing.
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
"""From here on two rows are near duplicates. Such a pair shares a band in 77 of 100 cases, one of 900,000 ppm
in 99: 1 - (1 - s^8)^8.
"""

_packed = struct.Struct(f"<{NUM_BANDS}q").pack

Sketch = tuple[int, ...]
"""`NUM_BANDS` bands, each as a signed integer of 64 bits, as databases keep them."""


@dataclass(frozen=True, slots=True)
class NearCopy:
    """Row `line` of an upload is nearly row `of_line` of another one, or of the same one."""

    line: int
    of_upload: str
    of_line: int
    of_account: Account
    of_index: int | None
    """Of the other contribution, once it is recorded."""
    similarity_ppm: int
    """Estimated, within about 50,000."""


@dataclass(frozen=True, slots=True)
class NearCopies:
    """What of an upload nearly stands somewhere already. No defect: whoever decides on the upload looks."""

    num_in_upload: int
    """Rows that are nearly an earlier one of the same upload."""
    num_in_datanet: int
    """Rows that are nearly one of another upload that was submitted to the datanet here."""
    first: tuple[NearCopy, ...]
    """The first hundred of each, with the row that is most alike."""


def similarity_ppm(one: Sequence[int], other: Sequence[int]) -> int:
    """Estimated Jaccard similarity of what two sketches stand for. Unlike bytes agree once in 256."""
    differing = _bits(one) ^ _bits(other)
    excess = 256 * differing.to_bytes(SKETCH_BYTES).count(0) - SKETCH_BYTES
    return max(0, 1_000_000 * excess // (255 * SKETCH_BYTES))


def _bits(sketch: Sequence[int]) -> int:
    return int.from_bytes(_packed(*sketch))
