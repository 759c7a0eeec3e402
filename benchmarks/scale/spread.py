"""Medians of repeated runs, with their range."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range as text, or one number if they are equal. `values`: in order."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (values[0], median(values), values[-1]))
    return middle if low == high else f"{middle} ({low} to {high})"
