"""Which tokens of a step belong to which adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BASE_SLOT = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, end) run on the adapter in `slot`, whose weights are `rows` of the arena."""

    start: int
    end: int
    slot: int
    rows: slice


def find_segments(runs: Iterable[tuple[int, int]], rows_by_slot: Sequence[slice | None]) -> list[Segment]:
    """Merge neighbouring `runs` of (slot, num_tokens) in batch order; runs on the base model are left out."""
    segments: list[Segment] = []
    start = 0
    for slot, num_tokens in runs:
        end = start + num_tokens
        if slot != BASE_SLOT:
            last = segments[-1] if segments else None
            rows = rows_by_slot[slot]
            if rows is None:
                raise ValueError(f"slot {slot} holds no adapter")
            if last is not None and last.slot == slot and last.end == start:
                segments[-1] = Segment(last.start, end, slot, rows)
            else:
                segments.append(Segment(start, end, slot, rows))
        start = end
    return segments
