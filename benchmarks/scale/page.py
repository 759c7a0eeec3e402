"""Renders docs/scale.md and its chart."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from string import Template
from typing import TYPE_CHECKING, Any

from backend.engine.routing import LOAD_FACTOR
from benchmarks.report.chart import Bar, bar_chart
from benchmarks.report.page import PRICE_PER_HOUR
from benchmarks.scale.costs import OURS, VLLM, ReplicaCosts, million_tokens, predictions
from benchmarks.scale.measured import measured
from benchmarks.scale.settlement import (
    CONTRIBUTORS,
    GWEI,
    batch_sizes,
    bytes_per_receipt,
    claim_price,
    gas_dollars,
)
from benchmarks.scale.spread import spread
from benchmarks.scale.study import POLICIES, SEEDS, SIZES, TARGET_MS, label, smallest
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHART = "images/scale.svg"
SMALL_DAY = 1_000_000.0
"""Receipts a day of an operator that is smaller than the simulated fleet."""
_TEMPLATE = Path(__file__).with_name("template.md")
_FIGURES = {
    "ttft_p50": ("first token p50, ms", 0),
    "ttft_p99": ("first token p99, ms", 0),
    "batch": ("requests in a step", 1),
    "hit_rate": ("hit rate", 3),
    "imbalance": ("imbalance", 2),
}
_COSTS = {
    "step_ms": ("fixed part of a step, ms", "batches of 1, 8 and 32, extrapolated to none"),
    "token_ms": ("a token in a step, ms", "batches of 1, 8 and 32 without adapters"),
    "adapter_ms": ("a distinct adapter in a step, ms", "the same batches with as many adapters"),
    "prompt_token_ms": ("a token of a prompt, ms", "4 prompts of 256 tokens"),
    "load_wait_ms": (
        "delay of a request whose adapter is loaded, ms",
        "cold against warm, from the local disk",
    ),
    "load_cpu_ms": ("processor time of a load, ms", "1,000 adapters by Zipf, two threads"),
    "resident_adapters": ("resident adapters", "rank 8 on all layers in 1 GiB"),
}


_PREDICTED = {
    "profile_lora1": "a step of 32 tokens by one adapter, ms",
    "profile_lora32": "a step of 32 tokens by 32 adapters, ms",
    "zipf5": "a request of the closed loop with 5 adapters, ms",
    "zipf1000": "the same with 1,000 adapters, ms",
}


def page(study: Mapping[str, Any], report: Mapping[str, Any], replicas: Mapping[str, Any] | None) -> str:
    """`study`: as `benchmarks.scale.study.study` returns it; `report`: docs/benchmarks.json; `replicas`: as
    `benchmarks.scale.replicas.measure` returns it, or None.
    """
    days = (SMALL_DAY, 86_400 * study["traffic"]["rate"])
    fields = {
        "rate": f"{study['traffic']['rate']:,.0f}",
        "small_day": _millions(days[0]),
        "small_rate": f"{days[0] / 86_400:.1f}",
        "fleet_day": _millions(days[1]),
        "assumptions": _assumptions(study["traffic"]),
        "costs": _lines(["", "value", "from"], _cost_rows(study["costs"])),
        "predicted": _predicted(report, study["costs"]),
        "factor": f"{LOAD_FACTOR:g}",
        "seeds": str(len(SEEDS)),
        "target": str(TARGET_MS),
        "chosen": str(study["chosen"]),
        "answer": _answer(study),
        "trade_off": _trade_off(study),
        "routers": _routers(study),
        "sizes": _runs(study, ("size",)),
        "sensitivity": _runs(study, ("traffic", "fleet")),
        "measured": measured(replicas),
        "batches": _batches(days),
        "data": _data(days),
        "pending": " and ".join(_gigabytes(day * bytes_per_receipt(64)) for day in days),
        "year": " and ".join(_gigabytes(365 * day * bytes_per_receipt(64)) for day in days),
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


def _predicted(report: Mapping[str, Any], costs: Mapping[str, Any]) -> str:
    rows = [
        [
            _PREDICTED[each.scenario],
            f"{each.predicted:.1f}",
            f"{each.measured:.1f}",
            f"{each.predicted / each.measured - 1:+.0%}",
        ]
        for each in predictions(report, ReplicaCosts(**costs))
    ]
    return _lines(["", "predicted", "measured", "difference"], rows)


def _answer(study: Mapping[str, Any]) -> str:
    """How many replicas, by the latency target."""
    texts = []
    for policy in POLICIES:
        size = smallest(study["runs"], policy)
        number = f"none of up to {SIZES[-1]} replicas is enough" if size is None else f"{size} replicas"
        texts.append(f"{number} with {policy}")
    return ", ".join(texts)


def _trade_off(study: Mapping[str, Any]) -> str:
    """Where the router of the API has the worse p99."""
    worse = [(size, *found) for size in SIZES for found in [_p99(study, size)] if found[0] > found[1]]
    hits = [_median(study, label(SIZES[-1], policy), "hit_rate") for policy in POLICIES]
    text = (
        "Affinity keeps adapters in memory (hit rate {:.2f} against {:.2f} with {} replicas), and by that "
        "needs fewer loads; round robin spreads the requests evenly."
    ).format(*hits, SIZES[-1])
    if not worse:
        return f"{text} Affinity has the better p99 with all numbers of replicas."
    cases = ", ".join(f"{size} replicas ({ours:.0f} against {theirs:.0f} ms)" for size, ours, theirs in worse)
    return f"{text} **Affinity has the worse p99 with {cases}.**"


def _routers(study: Mapping[str, Any]) -> str:
    """What API processes that route by themselves change."""
    names = [run["label"] for run in study["runs"] if run["label"].endswith("API processes")]
    cases = "; ".join(
        f"{name}: p99 {_median(study, name, 'ttft_p99'):.0f} ms, hit rate "
        f"{_median(study, name, 'hit_rate'):.2f}"
        for name in names
    )
    usual = label(study["chosen"], "affinity")
    p99, hits = (_median(study, usual, name) for name in ("ttft_p99", "hit_rate"))
    return f"One process: p99 {p99:.0f} ms, hit rate {hits:.2f}; {cases}."


def _p99(study: Mapping[str, Any], size: int) -> list[float]:
    return [_median(study, label(size, policy), "ttft_p99") for policy in POLICIES]


def _median(study: Mapping[str, Any], name: str, figure: str) -> float:
    values = next(run[figure] for run in study["runs"] if run["label"] == name)
    return float(median(values))


def _runs(study: Mapping[str, Any], groups: Sequence[str]) -> str:
    """The runs of the groups; runs of other assumptions begin with the one that they are compared with."""
    usual = label(study["chosen"], "affinity")
    chosen = [run for run in study["runs"] if run["group"] in groups]
    if "size" not in groups:
        chosen = [{**run, "label": "as assumed"} for run in study["runs"] if run["label"] == usual] + chosen
    heads = ["", *(label for label, _ in _FIGURES.values())]
    return _lines(heads, [[run["label"], *_cells(run)] for run in chosen])


def _cells(run: Mapping[str, Any]) -> list[str]:
    return [spread(run[name], digits) for name, (_, digits) in _FIGURES.items()]


def _batches(days: Sequence[float]) -> str:
    rows = [
        [
            _millions(day),
            f"{size.receipts:,}",
            f"{size.batches:,.0f}",
            f"{size.seconds_between / 60:,.2f}",
            f"{size.gas / 1e6:,.0f}",
            *(f"{gas_dollars(size.gas, gwei):,.2f}" for gwei in GWEI),
        ]
        for day in days
        for size in batch_sizes(day)
    ]
    heads = ["receipts a day", "receipts in a batch", "batches a day", "minutes between", "million gas a day"]
    return _lines([*heads, *(f"dollars a day at {gwei:g} gwei" for gwei in GWEI)], rows)


def _data(days: Sequence[float]) -> str:
    rows = []
    for number in CONTRIBUTORS:
        size = bytes_per_receipt(number)
        rows.append([f"{number}", f"{size:,.0f}", *(_gigabytes(size * day) for day in days)])
    heads = (f"a day of {_millions(day)}" for day in days)
    return _lines(["contributions that share an answer", "bytes a receipt", *heads], rows)


def _millions(number: float) -> str:
    return f"{number / 1e6:,.1f} million" if number % 1e6 else f"{number / 1e6:,.0f} million"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _tokens(study: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    prices = million_tokens(report, PRICE_PER_HOUR)
    traffic = study["traffic"]
    tokens_per_hour = traffic["rate"] * traffic["new_tokens"] * 3600
    chosen = study["chosen"]
    fleet = chosen * PRICE_PER_HOUR / tokens_per_hour * 1e6
    rows = [
        ["this engine", f"{prices[OURS]:.3f}", "1.0"],
        ["vLLM, multi-LoRA", f"{prices[VLLM]:.3f}", f"{prices[VLLM] / prices[OURS]:.1f}"],
        [f"the simulated fleet of {chosen}", f"{fleet:.3f}", f"{fleet / prices[OURS]:.1f}"],
    ]
    return _lines(["", "price of a million new tokens", "against this engine"], rows)


def _lines(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(table(head, rows))
