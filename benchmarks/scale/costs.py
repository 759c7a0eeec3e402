"""Costs of a replica, from the figures in docs/benchmarks.json."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import linear_regression
from typing import TYPE_CHECKING, Any

from benchmarks.engine.workload import ClosedLoop

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH = 32
"""Most requests in a step."""
SIZES = (1, 8, 32)
"""Measured batches that the costs of a step are fitted to."""
MEASURED_STEPS = {"profile_lora1": 1, "profile_lora32": BATCH}
"""Scenarios whose steps of 32 tokens were timed apart, with their distinct adapters."""
CLOSED_LOOPS = ("zipf5", "zipf1000")
OURS, VLLM = "loraledger", "vllm eager"


@dataclass(frozen=True, slots=True)
class ReplicaCosts:
    """Milliseconds of one replica of the measured machine.

    A step of `b` tokens with `a` distinct adapters takes `step_ms + b * token_ms + a * adapter_ms`. Loads use
    the processor for `load_cpu_ms` each, and delay their own request by `load_wait_ms`.
    """

    step_ms: float
    token_ms: float
    adapter_ms: float
    prompt_token_ms: float
    load_wait_ms: float
    load_cpu_ms: float
    resident_adapters: int

    def step(self, num_tokens: int, num_adapters: float) -> float:
        return self.step_ms + num_tokens * self.token_ms + num_adapters * self.adapter_ms


@dataclass(frozen=True, slots=True)
class Prediction:
    """Milliseconds of a scenario that the costs of a step were not fitted to: as they predict it, and as
    measured.
    """

    scenario: str
    predicted: float
    measured: float


def read_costs(report: Mapping[str, Any]) -> ReplicaCosts:
    """Costs from the JSON of `python -m benchmarks.engine`.

    A step is fitted by least squares to the median gaps between tokens in batches of `SIZES`: without
    adapters by its tokens, and what as many distinct adapters add to it by their number. A token of a prompt
    costs what it does in prompts of 256 tokens. Loads are measured in the closed loop of 1,000 adapters.
    """

    def figure(scenario: str, name: str) -> float:
        return median_of(report, OURS, scenario, name)

    base = [_gap_ms(report, f"size{size}") for size in SIZES]
    added = [
        _gap_ms(report, f"size{size}_adapters") - without for size, without in zip(SIZES, base, strict=True)
    ]
    token_ms, step_ms = linear_regression(SIZES, base)
    adapter_ms, lora_ms = linear_regression(SIZES, added)
    return ReplicaCosts(
        step_ms=step_ms + lora_ms,
        token_ms=token_ms,
        adapter_ms=adapter_ms,
        prompt_token_ms=1e3 / figure("prefill256", "prompt_tokens_per_second"),
        load_wait_ms=figure("cold", "cold_minus_warm_ms"),
        load_cpu_ms=figure("zipf1000", "loading_cpu_ms")
        / figure("zipf1000", "adapter_loads")
        / report["num_threads"],
        resident_adapters=int((1 << 30) / (figure("profile_lora1", "adapters_mb") * 1e6)),
    )


def predictions(report: Mapping[str, Any], costs: ReplicaCosts) -> list[Prediction]:
    """Steps of 32 tokens by the profiler, and the time of a request in the closed loops of 32 clients."""
    steps = [
        Prediction(name, costs.step(BATCH, adapters), median_of(report, OURS, name, "step_ms"))
        for name, adapters in MEASURED_STEPS.items()
    ]
    loop = ClosedLoop([], 0, 0)
    new_tokens = (loop.shortest + loop.longest) / 2

    def request_ms(name: str) -> float:
        adapters, loads = (
            median_of(report, OURS, name, each) for each in ("adapters_in_flight", "adapter_loads")
        )
        decode_ms = new_tokens * costs.step(loop.num_clients, adapters) / loop.num_clients
        return decode_ms + loop.prompt_tokens * costs.prompt_token_ms + loads * costs.load_cpu_ms

    loops = [
        Prediction(name, request_ms(name), median_of(report, OURS, name, "request_ms"))
        for name in CLOSED_LOOPS
    ]
    return steps + loops


def median_of(report: Mapping[str, Any], contestant: str, scenario: str, name: str) -> float:
    """Median over the repeats of a figure of one row."""
    found = next(
        row[name] for row in report["rows"] if (row["contestant"], row["scenario"]) == (contestant, scenario)
    )
    return float(found["median"])


def _gap_ms(report: Mapping[str, Any], scenario: str) -> float:
    """Median gap between the tokens of a request: a step."""
    return float(
        next(row["itl_ms"]["p50"]["median"] for row in report["rows"] if row["scenario"] == scenario)
    )


def million_tokens(report: Mapping[str, Any], price_per_hour: float) -> dict[str, float]:
    """Price of a million new tokens with 32 different adapters on the measured machine at full load."""
    return {
        name: round(price_per_hour / (median_of(report, name, "lora32", "tokens_per_second") * 3600) * 1e6, 4)
        for name in (OURS, VLLM)
    }
