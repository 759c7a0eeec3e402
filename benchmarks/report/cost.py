"""Cost of a million tokens: N adapters on one machine, compared with N dedicated machines."""

from __future__ import annotations

from dataclasses import dataclass

NUM_ADAPTERS = (1, 10, 32, 100, 1_000)
_SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Cost:
    """Prices in the currency of `price_per_hour`, per million new tokens."""

    num_adapters: int
    shared: float
    dedicated: float


def costs(price_per_hour: float, tokens_per_second: float, many_vs_few: float) -> list[Cost]:
    """Costs for each of `NUM_ADAPTERS`: one machine at full load, and one machine per adapter with the same
    total demand.

    `tokens_per_second` is the throughput of a batch of 32 different adapters. With more adapters than fit a
    batch it is multiplied by `many_vs_few`, the measured ratio of 1,000 adapters to 5. A dedicated machine is
    paid for while it is idle.
    """
    found = []
    for number in NUM_ADAPTERS:
        speed = tokens_per_second * (min(1.0, many_vs_few) if number > 32 else 1.0)
        shared = price_per_hour / (speed * _SECONDS_PER_HOUR) * 1_000_000
        found.append(Cost(number, shared, shared * number))
    return found
