"""Renders docs/scale.md and its chart."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from string import Template
from typing import TYPE_CHECKING, Any

from backend.engine.routing import LOAD_FACTOR
from benchmarks.report.chart import Bar, bar_chart
from benchmarks.report.page import PRICE_PER_HOUR
from benchmarks.scale.costs import OURS, VLLM, million_tokens
from benchmarks.scale.measured import measured
from benchmarks.scale.settlement import (
    CONTRIBUTORS,
    GWEI,
    RECEIPTS_PER_DAY,
    batch_sizes,
    bytes_per_receipt,
    claim_price,
    gas_dollars,
)
from benchmarks.scale.spread import spread
from benchmarks.scale.study import CHOSEN, SEEDS
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHART = "images/scale.svg"
_TEMPLATE = Path(__file__).with_name("template.md")
_FIGURES = {
    "ttft_p50": ("first token p50, ms", 0),
    "ttft_p99": ("first token p99, ms", 0),
    "batch": ("requests in a step", 1),
    "hit_rate": ("hit rate", 3),
    "imbalance": ("imbalance", 2),
}
_COSTS = {
    "step_ms": ("fixed part of a step, ms", "the weights' bytes at the measured bandwidth, and LoRA's"),
    "token_ms": ("a token in a step, ms", "the rest of a step of 32"),
    "adapter_ms": ("a distinct adapter in a step, ms", "32 adapters against one"),
    "prompt_token_ms": ("a token of a prompt, ms", "a batch without adapters, beyond its decode steps"),
    "load_wait_ms": (
        "delay of a request whose adapter is loaded, ms",
        "cold against warm, from the local disk",
    ),
    "load_cpu_ms": ("processor time of a load, ms", "1,000 adapters by Zipf, two threads"),
    "resident_adapters": ("resident adapters", "rank 8 on all layers in 1 GiB"),
}


def page(study: Mapping[str, Any], report: Mapping[str, Any], replicas: Mapping[str, Any] | None) -> str:
    """`study`: as `benchmarks.scale.study.study` returns it; `report`: docs/benchmarks.json; `replicas`: as
    `benchmarks.scale.replicas.measure` returns it, or None.
    """
    fields = {
        "assumptions": _assumptions(study["traffic"]),
        "costs": _lines(["", "value", "from"], _cost_rows(study["costs"])),
        "factor": f"{LOAD_FACTOR:g}",
        "seeds": str(len(SEEDS)),
        "chosen": str(CHOSEN),
        "sizes": _runs(study, ("size",)),
        "sensitivity": _runs(study, ("traffic", "fleet")),
        "measured": measured(replicas),
        "batches": _batches(),
        "data": _data(),
        "pending": _gigabytes(RECEIPTS_PER_DAY * bytes_per_receipt(64)),
        "year": _gigabytes(365 * RECEIPTS_PER_DAY * bytes_per_receipt(64)) + " with 64 contributions each",
        "claims": ", ".join(f"{claim_price(gwei):.4f} dollars at {gwei:g} gwei" for gwei in GWEI),
        "price": f"{PRICE_PER_HOUR:.2f}",
        "tokens": _tokens(study, report),
    }
    return Template(_TEMPLATE.read_text()).substitute(fields)


def chart(study: Mapping[str, Any]) -> str:
    """Time to the first token by number of replicas and router."""
    bars = [
        Bar(
            run["label"],
            median(run["ttft_p99"]),
            run["ttft_p99"][0],
            run["ttft_p99"][-1],
            "aff" in run["label"],
        )
        for run in study["runs"]
        if run["group"] == "size"
    ]
    return bar_chart("Time to the first token, p99 (ms), at 1,000 requests/s", bars)


def _assumptions(traffic: Mapping[str, float]) -> str:
    texts = [
        (
            "{rate:,.0f} requests a second over {num_adapters:,} adapters; popularity by Zipf, s = {zipf:g}; "
            "Poisson arrivals"
        ),
        "bursts of {burst:g} times the mean rate, for {burst_seconds:g} s in every {burst_every:g} s",
        "a new adapter every {new_every:g} s, which gets {new_share:.0%} of the requests at once",
        (
            "prompts of {prompt_tokens} tokens; answers of {new_tokens:g} tokens on average, distributed "
            "exponentially"
        ),
    ]
    return "\n".join(f"- {text.format(**traffic)}" for text in texts)


def _cost_rows(costs: Mapping[str, float]) -> list[list[str]]:
    return [[label, f"{costs[name]:.3g}", source] for name, (label, source) in _COSTS.items()]


def _runs(study: Mapping[str, Any], groups: Sequence[str]) -> str:
    """The runs of the groups; runs of other assumptions begin with the one that they are compared with."""
    usual = f"{CHOSEN} replicas, affinity"
    chosen = [run for run in study["runs"] if run["group"] in groups]
    if "size" not in groups:
        chosen = [{**run, "label": "as assumed"} for run in study["runs"] if run["label"] == usual] + chosen
    heads = ["", *(label for label, _ in _FIGURES.values())]
    return _lines(heads, [[run["label"], *_cells(run)] for run in chosen])


def _cells(run: Mapping[str, Any]) -> list[str]:
    return [spread(run[name], digits) for name, (_, digits) in _FIGURES.items()]


def _batches() -> str:
    rows = [
        [
            f"{size.receipts:,}",
            f"{size.batches:,}",
            f"{size.seconds_between / 60:,.1f}",
            f"{size.gas / 1e6:,.0f}",
            *(f"{gas_dollars(size.gas, gwei):,.2f}" for gwei in GWEI),
        ]
        for size in batch_sizes()
    ]
    heads = ["receipts in a batch", "batches a day", "minutes between", "million gas a day"]
    return _lines([*heads, *(f"dollars a day at {gwei:g} gwei" for gwei in GWEI)], rows)


def _data() -> str:
    rows = []
    for number in CONTRIBUTORS:
        size = bytes_per_receipt(number)
        rows.append([f"{number}", f"{size:,.0f}", _gigabytes(size * RECEIPTS_PER_DAY)])
    return _lines(["contributions that share an answer", "bytes a receipt", "a day"], rows)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _tokens(study: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    prices = million_tokens(report, PRICE_PER_HOUR)
    traffic = study["traffic"]
    tokens_per_hour = traffic["rate"] * traffic["new_tokens"] * 3600
    fleet = CHOSEN * PRICE_PER_HOUR / tokens_per_hour * 1e6
    rows = [
        ["this engine", f"{prices[OURS]:.3f}", "1.0"],
        ["vLLM, multi-LoRA", f"{prices[VLLM]:.3f}", f"{prices[VLLM] / prices[OURS]:.1f}"],
        [f"the simulated fleet of {CHOSEN}", f"{fleet:.3f}", f"{fleet / prices[OURS]:.1f}"],
    ]
    return _lines(["", "price of a million new tokens", "against this engine"], rows)


def _lines(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(table(head, rows))
