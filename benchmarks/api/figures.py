"""Results of runs: rows with method and spread, repeats with the CPU use of this and other processes."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Self

from benchmarks.engine.machine import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(slots=True)
class Timed:
    """One repeat. `cpu_seconds` are of this process; `other_cpu` is the CPU share of other processes."""

    count: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    other_cpu: float = 0.0

    @classmethod
    @contextmanager
    def measured(cls, server_seconds: Callable[[], float] = lambda: 0.0) -> Iterator[Self]:
        """Measure the time of the `with` block. `server_seconds`: processor time of a database server, which
        is none of the other processes.
        """
        timed, before, served = cls(), Usage.now(os.getpid()), server_seconds()
        wall, cpu = time.perf_counter(), time.process_time()
        yield timed
        timed.wall_seconds = time.perf_counter() - wall
        timed.cpu_seconds = time.process_time() - cpu
        after, served = Usage.now(os.getpid()), server_seconds() - served
        share = after.other_share_since(before) - served / (timed.wall_seconds * (os.cpu_count() or 1))
        timed.other_cpu = max(share, 0.0)

    @property
    def rate(self) -> float:
        return self.count / self.wall_seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: the median and range of its repeats, with the CPU share of other processes."""

    name: str
    method: str
    values: tuple[float, ...]
    other_cpu: tuple[float, ...]
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, method: str, runs: Sequence[Timed]) -> Self:
        """A row of rates: counts per second of wall time, and per second of own CPU time in the details."""
        per_cpu = [round(run.count / run.cpu_seconds, 1) for run in runs]
        return cls(
            name,
            method,
            tuple(run.rate for run in runs),
            tuple(run.other_cpu for run in runs),
            {"per_cpu_second": per_cpu},
        )

    @property
    def value(self) -> float:
        return median(self.values)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "method": self.method,
            "median": round(self.value, 3),
            "low": round(min(self.values), 3),
            "high": round(max(self.values), 3),
            "repeats": len(self.values),
            "other_cpu": [round(share, 3) for share in self.other_cpu],
            **self.details,
        }


def percentile(values: Sequence[float], number: int) -> float:
    """Interpolated between two values. `benchmarks.engine.measure.percentile` is always one of them."""
    return quantiles(values, n=100, method="inclusive")[number - 1]
