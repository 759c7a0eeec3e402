"""Traffic of the soak test: steady load, bursts, aborted requests, hostile adapters."""

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

_TOKEN_IDS = range(1_000, 49_000)  # ordinary tokens of SmolLM2's vocabulary
_PERIOD_SECONDS, _BURST_SECONDS = 10.0, 3.0
_STEADY, _BURST = 12, 160  # requests in flight
_PAYERS = ("alice", "bob", "carol")


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and its expected outcome: the error `expected_code`, an abort, or all its tokens."""

    command: Generate
    prompt: list[int]
    expected_code: str | None
    abort_after: int | None  # tokens; None: never aborted


class Traffic:
    """An endless, reproducible sequence of requests."""

    def __init__(self, adapters: Sequence[AdapterRef], hostile: Sequence[Hostile], seed: int = 0) -> None:
        self._adapters = adapters
        self._hostile = hostile
        self._source = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, len(adapters) + 1)))
        self._count = itertools.count()

    def in_flight(self, seconds: float) -> int:
        """Target number of open requests, `seconds` after the start."""
        return _BURST if seconds % _PERIOD_SECONDS < _BURST_SECONDS else _STEADY

    def next(self) -> Planned:
        """The next request: 90 % for an adapter by Zipf's law, 5 % for the base model, 5 % for a hostile
        adapter.
        """
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
        is_aborted = code is None and source.random() < 0.1
        return Planned(
            command=command,
            prompt=source.choices(_TOKEN_IDS, k=source.randint(2, 96)),
            expected_code=code,
            abort_after=source.randrange(new_tokens) if is_aborted else None,
        )
