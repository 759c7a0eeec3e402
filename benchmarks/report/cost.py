"""What a million tokens cost: N adapters on one machine, against N dedicated deployments."""

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
    """For each of `NUM_ADAPTERS`: one machine kept busy at `tokens_per_second`, the throughput of a batch of
    32 different adapters, and as many machines as there are adapters sharing the same demand.

    Beyond the 32 that fit a batch, throughput is `many_vs_few` of that, the measured ratio of 1,000 adapters
    to 5. A dedicated machine is paid for whether its adapter is asked for or not.
    """
    found = []
    for number in NUM_ADAPTERS:
        speed = tokens_per_second * (min(1.0, many_vs_few) if number > 32 else 1.0)
        shared = price_per_hour / (speed * _SECONDS_PER_HOUR) * 1_000_000
        found.append(Cost(number, shared, shared * number))
    return found
