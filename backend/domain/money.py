"""Amounts, ratios and their rounding.

Accounting is in micro-units: a dollar is 10^6 units of the payment token, a unit is 10^6 micro-units. Tokens
move in whole units only. Ratios are in parts per million (ppm).
"""

from __future__ import annotations

PPM = 1_000_000
"""The whole, in ppm."""
UNIT = 1_000_000
"""Micro-units in a token unit."""
UNITS_PER_DOLLAR = 1_000_000
MICRO_PER_DOLLAR = UNITS_PER_DOLLAR * UNIT

GWEI = 10**9
"""Wei in a gwei."""
COIN = 10**18
"""Wei in one coin of the chain."""


def mul_ppm_down(amount: int, ppm: int) -> int:
    """`amount * ppm / 1,000,000`, rounded down."""
    return amount * ppm // PPM


def mul_ppm_to_units_up(amount: int, ppm: int) -> int:
    """`ppm` of micro-units in whole token units, rounded up."""
    return -(-amount * ppm // (PPM * UNIT))


def in_dollars(amount: int) -> str:
    """Format micro-units exactly: `1,000 dollars`, `0.25 dollars`."""
    whole, rest = divmod(amount, MICRO_PER_DOLLAR)
    fraction = f".{rest:012d}".rstrip("0") if rest else ""
    return f"{whole:,}{fraction} dollars"
