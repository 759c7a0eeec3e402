"""Charge of an answer and its split, in micro-units. Source: docs/protocol.md, "Charge and split"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backend.domain.money import PPM, mul_ppm_down
from backend.domain.receipt import columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.receipt import Share, Slice

MAX_SLICES = 4
MAX_SHARES = 256


class Priced(Protocol):
    """Prices in token units per million tokens, such as a `VersionRecord`."""

    @property
    def prompt_price(self) -> int: ...
    @property
    def completion_price(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of a slice's charge. Numbers: 0 fee, 1 operator, 2 creator, 3 + j contributor j."""

    fee: int
    operator: int
    creator: int
    contributors: tuple[int, ...]


def slice_charges(
    slices: Sequence[Slice], prices: Sequence[Priced], prompt_tokens: int, completion_tokens: int
) -> tuple[int, ...]:
    """Charge of each slice at its version's prices, rounded down."""
    return tuple(
        mul_ppm_down(prompt_tokens * p.prompt_price + completion_tokens * p.completion_price, s.weight_ppm)
        for s, p in zip(slices, prices, strict=True)
    )


def charge(
    slices: Sequence[Slice], prices: Sequence[Priced], prompt_tokens: int, completion_tokens: int
) -> int:
    """Charge of the whole answer."""
    return sum(slice_charges(slices, prices, prompt_tokens, completion_tokens))


def split(
    slice_charge: int, fee_ppm: int, operator_ppm: int, creator_ppm: int, shares: Sequence[Share]
) -> Parts:
    """Split a slice's charge; the parts sum to it. Without shares the pool is one part, for the treasury."""
    fee = mul_ppm_down(slice_charge, fee_ppm)
    rest = slice_charge - fee
    operator, creator = mul_ppm_down(rest, operator_ppm), mul_ppm_down(rest, creator_ppm)
    pool = rest - operator - creator
    return Parts(fee, operator, creator, split_pool(pool, columns(shares)[1]) if shares else (pool,))


def split_pool(pool: int, ppms: Sequence[int]) -> tuple[int, ...]:
    """Divide the contributors' pool. The remainder goes to the largest share, the first of them on a tie."""
    amounts = [pool * ppm // PPM for ppm in ppms]
    amounts[ppms.index(max(ppms))] += pool - sum(amounts)
    return tuple(amounts)
