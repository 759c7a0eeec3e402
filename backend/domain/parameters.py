"""The governed parameters of the market."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.ids import Account


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """One version of the parameters, as Solidity's `ParameterSet`. A batch names its set by `id`."""

    id: int
    treasury: Account
    fee_ppm: int
    stake_cover_ppm: int
    dispute_window: int  # seconds
    min_contributors_ppm: int
    min_operator_ppm: int
    max_operator_ppm: int
    challenger_ppm: int
