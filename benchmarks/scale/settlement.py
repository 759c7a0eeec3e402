"""What the receipts of a day are in batches, bytes and gas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.batch_data import BatchName, encode
from benchmarks.batch import Registry, receipts
from benchmarks.ledger.gas import Market, claim_dollars, gas_per_thousand, share_of_revenue

if TYPE_CHECKING:
    from collections.abc import Sequence

GAS = Path(__file__).resolve().parents[2] / "tests" / "snapshots" / "gas.json"
BATCH_SIZES = (1_000, 10_000, 25_000)
CONTRIBUTORS = (8, 64, 256)
SAMPLE = 400
"""Receipts whose encoding is measured; a batch's header adds a few hundred bytes."""
GWEI = (0.001, 0.01, 0.1)


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Batches of one size. `gas`: of a day."""

    receipts: int
    batches: float
    seconds_between: float
    gas: float


def batch_sizes(receipts_per_day: float) -> list[BatchSize]:
    gas, market = json.loads(GAS.read_text()), Market()
    return [
        BatchSize(
            receipts=size,
            batches=receipts_per_day / size,
            seconds_between=86_400 * size / receipts_per_day,
            gas=gas_per_thousand(gas, size, market) * receipts_per_day / 1_000,
        )
        for size in BATCH_SIZES
    ]


def gas_dollars(gas: float, gwei: float) -> float:
    """Price of gas with the assumptions of `benchmarks.ledger.gas`."""
    market = Market()
    return share_of_revenue(gas, gwei, market) * market.revenue


def claim_price(gwei: float) -> float:
    return claim_dollars(json.loads(GAS.read_text()), gwei, Market())


def bytes_per_receipt(num_contributors: int) -> float:
    """Of the published batch data, by the encoder itself."""
    registry = Registry(num_contributors)
    signed: Sequence[Any] = receipts(registry, SAMPLE, num_contributors)
    operator = registry.record.creator
    return len(encode(BatchName(1, operator, operator, 1), signed)) / SAMPLE
