"""The runs of the simulation: how many replicas, which router, and how far each assumption matters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.scale.fleet import Fleet, Outcome, simulate
from benchmarks.scale.traffic import Traffic, arrivals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from benchmarks.scale.costs import ReplicaCosts

SECONDS, WARM_UP = 40.0, 20.0
SEEDS = (1, 2, 3)
SIZES = (60, 70, 80, 90, 110)
TARGET_MS = 100
"""Most time to the first token, at p99 of every seed."""
POLICIES: tuple[Literal["affinity", "round robin"], ...] = ("affinity", "round robin")


@dataclass(frozen=True, slots=True)
class Run:
    group: str
    label: str
    traffic: Traffic
    fleet: Fleet


def label(num_replicas: int, policy: str) -> str:
    return f"{num_replicas} replicas, {policy}"


def sized_runs(costs: ReplicaCosts) -> Iterator[Run]:
    traffic = Traffic()
    for size in SIZES:
        for policy in POLICIES:
            yield Run("size", label(size, policy), traffic, Fleet(size, costs, traffic.prompt_tokens, policy))


def smallest(runs: Iterable[Mapping[str, Any]], policy: str) -> int | None:
    """The fewest replicas with which `policy` reaches the target; None if none of `SIZES` does."""
    slowest = {run["label"]: run["ttft_p99"][-1] for run in runs}
    return next((size for size in SIZES if slowest[label(size, policy)] <= TARGET_MS), None)


def varied_runs(costs: ReplicaCosts, num_replicas: int) -> Iterator[Run]:
    """One assumption changed at a time, with the affinity router."""
    traffic = Traffic()
    base = Fleet(num_replicas, costs, traffic.prompt_tokens)
    changed_traffic: dict[str, dict[str, Any]] = {
        "popularity by Zipf with s = 0.8": {"zipf": 0.8},
        "popularity by Zipf with s = 1.2": {"zipf": 1.2},
        "1,000 adapters": {"num_adapters": 1_000},
        "bursts of 2.5 times the mean": {"burst": 2.5},
        "no bursts": {"burst": 1.0},
        "every new adapter gets 10 % of the requests": {"new_share": 0.1},
        "answers twice as long, half as many": {"new_tokens": 128.0, "rate": 500.0},
    }
    for text, fields in changed_traffic.items():
        yield Run("traffic", text, replace(traffic, **fields), base)
    changed_fleet: dict[str, dict[str, Any]] = {
        "4 API processes": {"num_routers": 4},
        "16 API processes": {"num_routers": 16},
        "load factor 1.05": {"load_factor": 1.05},
        "load factor 2": {"load_factor": 2.0},
        "adapters that load ten times as slowly": {
            "costs": replace(costs, load_wait_ms=10 * costs.load_wait_ms, load_cpu_ms=10 * costs.load_cpu_ms)
        },
        "a quarter as many resident adapters": {
            "costs": replace(costs, resident_adapters=costs.resident_adapters // 4)
        },
        "a distinct adapter costs twice as much": {"costs": replace(costs, adapter_ms=2 * costs.adapter_ms)},
    }
    for text, fields in changed_fleet.items():
        yield Run("fleet", text, traffic, replace(base, **fields))


def small_run(costs: ReplicaCosts) -> Run:
    """A run of a second of processor time, which tests repeat."""
    traffic = Traffic(rate=40.0, num_adapters=400)
    return Run("small", "4 replicas, 40 requests/s", traffic, Fleet(4, costs, traffic.prompt_tokens))


def outcomes(run: Run) -> dict[str, Any]:
    """Group, label, and of each figure the values of the seeds, in order."""
    found = [outcome_of(run, seed) for seed in SEEDS]
    figures = {name: sorted(getattr(each, name) for each in found) for name in Outcome.__dataclass_fields__}
    return {"group": run.group, "label": run.label, **figures}


def outcome_of(run: Run, seed: int) -> Outcome:
    popular = range(run.traffic.num_adapters)
    return simulate(run.fleet, arrivals(run.traffic, SECONDS, seed), popular, SECONDS, WARM_UP)


def study(costs: ReplicaCosts) -> dict[str, Any]:
    """All runs, as JSON. The assumptions are varied with the fewest replicas that reach the target."""
    sized = [outcomes(run) for run in sized_runs(costs)]
    chosen = smallest(sized, "affinity") or max(SIZES)
    varied = [outcomes(run) for run in (*varied_runs(costs, chosen), small_run(costs))]
    return {
        "costs": {name: round(value, 4) for name, value in asdict(costs).items()},
        "traffic": asdict(Traffic()),
        "chosen": chosen,
        "runs": sized + varied,
    }
