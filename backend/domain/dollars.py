"""Amounts as people read them. A dollar is 10^6 units of the payment token, a unit is 10^6 micro-units."""

from __future__ import annotations

from backend.domain.split import UNIT

UNITS_PER_DOLLAR = 1_000_000
MICRO_PER_DOLLAR = UNITS_PER_DOLLAR * UNIT


def in_dollars(amount: int) -> str:
    """Micro-units, exactly: `1,000 dollars`, `0.25 dollars`."""
    whole, rest = divmod(amount, MICRO_PER_DOLLAR)
    fraction = f".{rest:012d}".rstrip("0") if rest else ""
    return f"{whole:,}{fraction} dollars"
