"""What clients do to the engine during a soak: steady use, bursts, abandoned requests, hostile adapters."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.protocol import Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.soak.hostile import Hostile
    from inference.protocol import AdapterRef

_TOKEN_IDS = range(1_000, 49_000)  # ordinary words of SmolLM2's vocabulary
_PERIOD_SECONDS, _BURST_SECONDS = 10.0, 3.0
_STEADY, _BURST = 12, 160  # requests in flight
_PAYERS = ("alice", "bob", "carol")


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and how it must end: by `expected_code`, by an abort, or with all its tokens."""

    command: Generate
    prompt: list[int]
    expected_code: str | None
    abort_after: int | None  # tokens; None: its client waits to the end


class Traffic:
    """An endless, reproducible line of requests."""

    def __init__(self, adapters: Sequence[AdapterRef], hostile: Sequence[Hostile], seed: int = 0) -> None:
        self._adapters = adapters
        self._hostile = hostile
        self._source = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, len(adapters) + 1)))
        self._count = itertools.count()

    def in_flight(self, seconds: float) -> int:
        """How many requests clients want to have open, `seconds` after the start."""
        return _BURST if seconds % _PERIOD_SECONDS < _BURST_SECONDS else _STEADY

    def next(self) -> Planned:
        """9 in 10 honest: by Zipf's law one of the adapters, now and then the base model."""
        source = self._source
        kind = source.random()
        adapter, code = None, None
        if kind < 0.05:
            hostile = source.choice(self._hostile)
            adapter, code = hostile.adapter, hostile.code
        elif kind > 0.1:
            (adapter,) = source.choices(self._adapters, cum_weights=self._weights)
        new_tokens = source.randint(1, 40)
        command = Generate(
            f"request {next(self._count)}",
            prompt=".",
            adapter=adapter,
            payer=source.choice(_PAYERS),
            sampling=Sampling(
                max_tokens=new_tokens,
                temperature=source.choice((0.0, 0.8)),
                seed=source.getrandbits(31),
                ignore_eos=True,
            ),
        )
        is_abandoned = code is None and source.random() < 0.1
        return Planned(
            command=command,
            prompt=source.choices(_TOKEN_IDS, k=source.randint(2, 96)),
            expected_code=code,
            abort_after=source.randrange(new_tokens) if is_abandoned else None,
        )
