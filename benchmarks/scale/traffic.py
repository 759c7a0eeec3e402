"""Requests to an operator: Zipf popularity, bursts, and new adapters that become popular at once."""

from __future__ import annotations

import bisect
import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Traffic:
    """Assumptions about the requests. Times in seconds.

    Adapter k of `num_adapters` is requested in proportion to 1 / k ** `zipf`. Every `burst_every` the rate is
    multiplied by `burst` for `burst_seconds`, and lower between, so that its mean stays. Every `new_every` an
    adapter appears that gets `new_share` of the requests from then on, until the next one. Lengths of answers
    are geometric.
    """

    rate: float = 1_000.0
    num_adapters: int = 10_000
    zipf: float = 1.0
    burst: float = 1.5
    burst_every: float = 20.0
    burst_seconds: float = 4.0
    new_every: float = 5.0
    new_share: float = 0.02
    prompt_tokens: int = 32
    new_tokens: float = 64.0


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float
    adapter: int
    num_tokens: int


def arrivals(traffic: Traffic, seconds: float, seed: int) -> Iterator[Arrival]:
    """Poisson arrivals in order of time."""
    dice = random.Random(seed)  # noqa: S311 - a simulation, repeatable by its seed
    popularity = list(
        itertools.accumulate(1 / rank**traffic.zipf for rank in range(1, traffic.num_adapters + 1))
    )
    part = traffic.burst_seconds / traffic.burst_every
    calm = (1 - part * traffic.burst) / (1 - part)
    at = 0.0
    while True:
        is_burst = at % traffic.burst_every < traffic.burst_seconds
        at += dice.expovariate(traffic.rate * (traffic.burst if is_burst else calm))
        if at >= seconds:
            return
        if dice.random() < traffic.new_share:
            adapter = traffic.num_adapters + int(at / traffic.new_every)
        else:
            adapter = bisect.bisect_left(popularity, dice.random() * popularity[-1])
        yield Arrival(at, adapter, 1 + int(dice.expovariate(1 / traffic.new_tokens)))
