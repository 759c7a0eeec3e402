"""The soak itself: one engine, all that clients do to it, and what must hold meanwhile."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.engine.measure import percentile, rss_bytes
from benchmarks.soak.ledger import Ledger
from inference.engine import Engine
from inference.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.soak.traffic import Traffic
    from inference.config import EngineConfig

MAX_GROWTH = 0.02
MAX_MORE_FILES = 8  # loads in flight hold a few
_STEPS_BETWEEN_CHECKS = 50
_SECONDS_BETWEEN_SAMPLES = 1.0
_PATIENCE_SECONDS = 0.05  # how long a stalled engine keeps clients from submitting more


@dataclass(slots=True)
class Observed:
    """What was seen during a soak. Memory and open files are sampled once a second."""

    ledger: Ledger
    num_steps: int = 0
    num_integrity_checks: int = 0
    rss_bytes: list[int] = field(default_factory=list)
    num_files: list[int] = field(default_factory=list)
    num_preemptions: int = 0
    max_waiting: int = 0
    digests_loaded: set[str] = field(default_factory=set)

    def failures(self, *, is_memory_judged: bool = True) -> list[str]:
        """Everything that did not hold; empty after a good soak."""
        found = list(self.ledger.problems)
        if self.ledger.num_open:
            found.append(f"{self.ledger.num_open} requests were accepted and never ended")
        if not self.ledger.counts["answered"]:
            found.append("no request was answered")
        first, last = _first_and_last(self.num_files)
        if last - first > MAX_MORE_FILES:
            found.append(f"open files grew from {first:.0f} to {last:.0f}")
        grown = growth(self.rss_bytes)
        if is_memory_judged and grown > MAX_GROWTH:
            found.append(f"memory grew by {grown:.1%}, at most {MAX_GROWTH:.0%} are allowed")
        return found


class Soak:
    """Drives an engine through `traffic`."""

    def __init__(
        self, config: EngineConfig, traffic: Traffic, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._loaded = threading.Event()
        self._engine = Engine(config, on_loaded=self._loaded.set)
        self._traffic = traffic
        self._observed = Observed(Ledger())

    def run(self, seconds: float, on_sample: Callable[[float, Observed], None]) -> Observed:
        """Traffic for `seconds`, then until every open request has ended. `on_sample` is called once a second
        with the seconds so far. Raises `AssertionError` when blocks, slots or registry are found damaged.
        """
        began = sampled = self._clock()
        try:
            while (elapsed := self._clock() - began) < seconds:
                self._submit(self._traffic.in_flight(elapsed))
                self._step()
                if self._clock() - sampled >= _SECONDS_BETWEEN_SAMPLES:
                    sampled = self._clock()
                    self._sample()
                    on_sample(elapsed, self._observed)
            while not self._engine.is_idle:
                self._step()
            self._check()
        finally:
            self._engine.close()
        return self._observed

    def _submit(self, in_flight: int) -> None:
        ledger = self._observed.ledger
        while ledger.num_open < in_flight:
            planned = self._traffic.next()
            try:
                self._engine.add(planned.command, planned.prompt)
            except OverloadedError:
                ledger.refuse()
                return
            ledger.accept(planned)

    def _step(self) -> None:
        ledger = self._observed.ledger
        for request_id in ledger.to_abort():
            ledger.aborted(request_id, self._engine.abort(request_id))
        self._loaded.clear()
        for output in self._engine.step():
            ledger.take(output)
        if self._engine.is_stalled:
            self._loaded.wait(_PATIENCE_SECONDS)
        self._observed.num_steps += 1
        if self._observed.num_steps % _STEPS_BETWEEN_CHECKS == 0:
            self._check()

    def _check(self) -> None:
        self._engine.check_integrity()
        self._observed.num_integrity_checks += 1

    def _sample(self) -> None:
        status = self._engine.status()
        self._observed.rss_bytes.append(rss_bytes())
        self._observed.num_files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        self._observed.num_preemptions = status.num_preemptions
        self._observed.max_waiting = max(self._observed.max_waiting, status.num_waiting)
        self._observed.digests_loaded.update(status.resident_adapters)


def growth(samples: list[int]) -> float:
    """How much larger the last third is than the first, by medians, as a fraction; the first quarter of all
    is left out, in which caches fill up. 0 for fewer than a dozen samples.
    """
    first, last = _first_and_last(samples)
    return last / first - 1 if first else 0.0


def _first_and_last(samples: list[int]) -> tuple[float, float]:
    kept = samples[len(samples) // 4 :]
    third = len(kept) // 3
    if third < 3:
        return 0.0, 0.0
    return percentile(kept[:third], 50), percentile(kept[-third:], 50)
