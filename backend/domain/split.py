"""What an answer costs and who earns it, in micro-units. Source: docs/protocol.md, "Charge and split"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backend.domain.money import PPM, mul_ppm_down

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.receipt import Share, Slice

MAX_SLICES = 4
MAX_SHARES = 256


class Priced(Protocol):
    """Token units per million tokens; a `VersionRecord` is one."""

    @property
    def prompt_price(self) -> int: ...
    @property
    def completion_price(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one slice's charge, in the order of their numbers: 0 fee, 1 operator, 2 creator, 3 + j."""

    fee: int
    operator: int
    creator: int
    contributors: tuple[int, ...]


def slice_charges(
    slices: Sequence[Slice], prices: Sequence[Priced], prompt_tokens: int, completion_tokens: int
) -> tuple[int, ...]:
    """The charge of each slice at its version's prices, in the order of the slices."""
    return tuple(
        mul_ppm_down(prompt_tokens * p.prompt_price + completion_tokens * p.completion_price, s.weight_ppm)
        for s, p in zip(slices, prices, strict=True)
    )


def charge(
    slices: Sequence[Slice], prices: Sequence[Priced], prompt_tokens: int, completion_tokens: int
) -> int:
    """What the answer costs."""
    return sum(slice_charges(slices, prices, prompt_tokens, completion_tokens))


def split(
    slice_charge: int, fee_ppm: int, operator_ppm: int, creator_ppm: int, shares: Sequence[Share]
) -> Parts:
    """The parts of a slice's charge; they sum to it. Without shares, one part 3 for the treasury."""
    fee = mul_ppm_down(slice_charge, fee_ppm)
    rest = slice_charge - fee
    operator, creator = mul_ppm_down(rest, operator_ppm), mul_ppm_down(rest, creator_ppm)
    pool = rest - operator - creator
    return Parts(fee, operator, creator, split_pool(pool, [s.ppm for s in shares]) if shares else (pool,))


def split_pool(pool: int, ppms: Sequence[int]) -> tuple[int, ...]:
    """The contributors' amounts; the remainder goes to the largest ppm, the first of them on a tie."""
    amounts = [pool * ppm // PPM for ppm in ppms]
    amounts[ppms.index(max(ppms))] += pool - sum(amounts)
    return tuple(amounts)
