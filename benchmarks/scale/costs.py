"""Costs of a replica, from the figures in docs/benchmarks.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH = 32
"""Requests in a batch, as measured."""
PROMPT_TOKENS, NEW_TOKENS = 32, 64
"""Of a measured request."""
WEIGHT_BYTES = 269_060_352
"""Of SmolLM2-135M in bf16."""
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

    def step(self, num_tokens: int, num_adapters: int) -> float:
        return self.step_ms + num_tokens * self.token_ms + num_adapters * self.adapter_ms


def read_costs(report: Mapping[str, Any]) -> ReplicaCosts:
    """Costs from the JSON of `python -m benchmarks.engine`.

    Only steps of 32 tokens were measured. The fixed part is what reading the weights takes at the measured
    bandwidth, and the rest of a step is proportional to its tokens. An adapter costs its part of the
    difference between 32 adapters and one. What a batch takes beyond its decode steps is its prompts'.
    """

    def figure(scenario: str, name: str) -> float:
        return median_of(report, OURS, scenario, name)

    base, one, many = (figure(f"profile_{name}", "step_ms") for name in ("base", "lora1", "lora32"))
    reading = WEIGHT_BYTES / figure("profile_base", "read_gb_s") / 1e6
    batch_ms = BATCH * NEW_TOKENS / median_of(report, OURS, "base", "tokens_per_second") * 1e3
    adapter = (many - one) / (BATCH - 1)
    return ReplicaCosts(
        step_ms=reading + one - base - adapter,
        token_ms=(base - reading) / BATCH,
        adapter_ms=adapter,
        prompt_token_ms=max(0.0, batch_ms - NEW_TOKENS * base) / (BATCH * PROMPT_TOKENS),
        load_wait_ms=figure("cold", "cold_minus_warm_ms"),
        load_cpu_ms=figure("zipf1000", "loading_cpu_ms")
        / figure("zipf1000", "adapter_loads")
        / report["num_threads"],
        resident_adapters=int((1 << 30) / (figure("profile_lora1", "adapters_mb") * 1e6)),
    )


def median_of(report: Mapping[str, Any], contestant: str, scenario: str, name: str) -> float:
    """Median over the repeats of a figure of one row."""
    found = next(
        row[name] for row in report["rows"] if (row["contestant"], row["scenario"]) == (contestant, scenario)
    )
    return float(found["median"])


def million_tokens(report: Mapping[str, Any], price_per_hour: float) -> dict[str, float]:
    """Price of a million new tokens with 32 different adapters on the measured machine at full load."""
    return {
        name: round(price_per_hour / (median_of(report, name, "lora32", "tokens_per_second") * 3600) * 1e6, 4)
        for name in (OURS, VLLM)
    }
