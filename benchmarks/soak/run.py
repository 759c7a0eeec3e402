"""Runs the soak test: drives one engine and checks its invariants."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.engine.measure import anonymous_bytes, percentile
from benchmarks.soak.ledger import RequestLedger
from inference.engine import Engine
from inference.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.soak.traffic import Traffic
    from inference.config import EngineConfig

MAX_GROWTH = 0.02
MAX_MORE_FILES = 8  # running loads hold a few
_STEPS_BETWEEN_CHECKS = 50
_SECONDS_BETWEEN_SAMPLES = 1.0
_STALL_SECONDS = 0.05  # how long the loop waits for a load when the engine is stalled


@dataclass(slots=True)
class Observations:
    """Observations of a soak test. Memory and open files are sampled once a second."""

    ledger: RequestLedger
    num_steps: int = 0
    num_integrity_checks: int = 0
    anonymous_bytes: list[int] = field(default_factory=list)
    num_files: list[int] = field(default_factory=list)
    num_preemptions: int = 0
    max_waiting: int = 0
    digests_loaded: set[str] = field(default_factory=set)

    def failures(self, *, checks_memory: bool = True) -> list[str]:
        """All violated expectations; empty if the test passed."""
        found = list(self.ledger.problems)
        if self.ledger.num_open:
            found.append(f"{self.ledger.num_open} requests were accepted and never ended")
        if not self.ledger.counts["answered"]:
            found.append("no request was answered")
        first, last = _first_and_last(self.num_files)
        if last - first > MAX_MORE_FILES:
            found.append(f"open files grew from {first:.0f} to {last:.0f}")
        grown = growth(self.anonymous_bytes)
        if checks_memory and grown > MAX_GROWTH:
            found.append(f"memory grew by {grown:.1%}, more than {MAX_GROWTH:.0%}")
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
        self._observations = Observations(RequestLedger())

    def run(self, seconds: float, on_sample: Callable[[float, Observations], None]) -> Observations:
        """Run traffic for `seconds`, then until every open request has ended. `on_sample` is called once a
        second with the elapsed seconds. Raises `AssertionError` if blocks, slots or registry are
        inconsistent.
        """
        began = sampled = self._clock()
        try:
            while (elapsed := self._clock() - began) < seconds:
                self._submit(self._traffic.in_flight(elapsed))
                self._step()
                if self._clock() - sampled >= _SECONDS_BETWEEN_SAMPLES:
                    sampled = self._clock()
                    self._sample()
                    on_sample(elapsed, self._observations)
            while not self._engine.is_idle:
                self._step()
            self._check()
        finally:
            self._engine.close()
        return self._observations

    def _submit(self, in_flight: int) -> None:
        ledger = self._observations.ledger
        while ledger.num_open < in_flight:
            planned = self._traffic.next()
            try:
                self._engine.add(planned.command, planned.prompt)
            except OverloadedError:
                ledger.refuse()
                return
            ledger.accept(planned)

    def _step(self) -> None:
        ledger = self._observations.ledger
        for request_id in ledger.requests_to_abort():
            ledger.aborted(request_id, self._engine.abort(request_id))
        self._loaded.clear()
        for output in self._engine.step():
            ledger.record(output)
        if self._engine.is_stalled:
            self._loaded.wait(_STALL_SECONDS)
        self._observations.num_steps += 1
        if self._observations.num_steps % _STEPS_BETWEEN_CHECKS == 0:
            self._check()

    def _check(self) -> None:
        self._engine.check_integrity()
        self._observations.num_integrity_checks += 1

    def _sample(self) -> None:
        status = self._engine.status()
        self._observations.anonymous_bytes.append(anonymous_bytes())
        self._observations.num_files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        self._observations.num_preemptions = status.num_preemptions
        self._observations.max_waiting = max(self._observations.max_waiting, status.num_waiting)
        self._observations.digests_loaded.update(status.resident_adapters)


def growth(samples: list[int]) -> float:
    """Growth from the first to the last third of the samples, by medians, as a fraction. The first quarter,
    in which caches fill, is excluded. 0 for fewer than a dozen samples.
    """
    first, last = _first_and_last(samples)
    return last / first - 1 if first else 0.0


def _first_and_last(samples: list[int]) -> tuple[float, float]:
    kept = samples[len(samples) // 4 :]
    third = len(kept) // 3
    if third < 3:
        return 0.0, 0.0
    return percentile(kept[:third], 50), percentile(kept[-third:], 50)
