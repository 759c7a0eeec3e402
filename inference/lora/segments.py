"""Divides a step's tokens into segments by adapter slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.kernels.interface import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BASE_SLOT = -1
"""Stands for the base model without an adapter."""


def find_segments(spans: Iterable[tuple[int, int]], rows_by_slot: Sequence[slice | None]) -> list[Segment]:
    """Merge neighbouring `spans` of (slot, num_tokens) in batch order. Spans of the base model are left out.

    Raises `ValueError` for an empty slot.
    """
    segments: list[Segment] = []
    start = 0
    for slot, num_tokens in spans:
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
