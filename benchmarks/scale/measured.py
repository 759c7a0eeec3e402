"""Renders what `python -m benchmarks.scale.replicas` measured, for docs/scale.md."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from string import Template
from typing import TYPE_CHECKING, Any

from benchmarks.report.origin import commit_text, cpu_text
from benchmarks.scale.spread import spread
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Mapping

_MISSING = "Not measured yet."
_STARTS = (
    "These runs are older than this rule: their p99, and the p99 before the kill, contain the common start."
)
_TEXT = Path(__file__).with_suffix(".md")
_FIGURES = {
    "tokens_per_second": ("tokens/s", 0),
    "tokens_per_cpu_second": ("tokens per processor second", 0),
    "ttft_p50_ms": ("first token p50, ms", 0),
    "ttft_p99_ms": ("first token p99, ms", 0),
    "hit_rate": ("hit rate", 3),
    "imbalance": ("imbalance", 2),
    "failed": ("failed", 0),
}
_KILLED = {
    "engines": "engines",
    "running": "requests at the killed engine",
    "begun": "of these begun just before",
    "failed": "answers that failed",
    "tokens_per_second_before": "tokens/s before",
    "tokens_per_second_after": "tokens/s after",
    "ttft_p99_ms_before": "first token p99 before, ms",
    "ttft_p99_ms_after": "first token p99 after, ms",
}


def measured(found: Mapping[str, Any] | None) -> str:
    """`found`: as `benchmarks.scale.replicas.measure` returns it; None if it did not run."""
    if found is None:
        return _MISSING
    machine = found["machine"]
    return Template(_TEXT.read_text().rstrip()).substitute(
        {name: f"{value:,}" for name, value in found["load"].items()},
        model=found["model"],
        cpu=cpu_text(machine),
        commit=commit_text(found),
        cores=machine["num_cores"],
        finished=found["finished_at"],
        runs=_runs(found),
        compared=_compared(found),
        starts="" if "commit" in found else _STARTS,
        killed=_killed(found),
    )


def _runs(found: Mapping[str, Any]) -> str:
    heads = ["", *(label for label, _ in _FIGURES.values()), "CPU of others"]
    rows = [
        [
            _label(run),
            *(spread(run[name], digits) for name, (_, digits) in _FIGURES.items()),
            spread([100 * share for share in run["other_cpu"]], 0) + " %",
        ]
        for run in found["runs"]
    ]
    return "\n".join(table(heads, rows))


def _compared(found: Mapping[str, Any]) -> str:
    """The routers side by side, for each number of engines."""
    runs = {(run["engines"], run["router"]): run for run in found["runs"]}
    texts = [
        "with {engines} engines {tokens_per_second} tokens/s, first token p50 {ttft_p50_ms} ms, p99 "
        "{ttft_p99_ms} ms, hit rate {hit_rate}".format(
            engines=engines,
            **{
                name: f"{median(ours[name]):,.{_FIGURES[name][1]}f} against "
                f"{median(theirs[name]):,.{_FIGURES[name][1]}f}"
                for name in ("tokens_per_second", "ttft_p50_ms", "ttft_p99_ms", "hit_rate")
            },
        )
        for (engines, router), ours in runs.items()
        if router == "affinity" and (engines, "round robin") in runs
        for theirs in [runs[engines, "round robin"]]
    ]
    return f"Affinity against round robin: {'; '.join(texts)}." if texts else ""


def _label(run: Mapping[str, Any]) -> str:
    return "1 engine" if run["engines"] == 1 else f"{run['engines']} engines, {run['router']}"


def _killed(found: Mapping[str, Any]) -> str:
    rows = [
        [*(f"{run[name]:,.0f}" for name in _KILLED), f"{run['other_cpu']:.0%}"] for run in found["killed"]
    ]
    return "\n".join(table([*_KILLED.values(), "CPU of others"], rows))
