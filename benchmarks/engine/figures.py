"""Computes rows and ratios from runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.engine.launcher import (
    INT8,
    LLAMA,
    LLAMA_F16,
    LLAMA_Q8,
    OURS,
    PEFT,
    VLLM,
    VLLM_BASE,
    VLLM_EAGER,
)
from benchmarks.engine.measure import percentile, spread
from benchmarks.engine.own_scenarios import LOOKUP, WITHOUT_LOOKUP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.engine.contestant import Run
    from benchmarks.engine.scenarios import Entry, Results

MIB = 2**20
QUIET = 0.05  # CPU share of other processes above which a run is not representative
MIN_FOR_P99 = 100  # samples; the p99 of fewer is their maximum


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median over the repeats, with the lowest and highest of a single repeat."""

    value: float
    low: float
    high: float


def row(entry: Entry, runs: Sequence[Run]) -> dict[str, Any]:
    """The row of one contestant in one scenario.

    Latency percentiles are of each repeat, with their median and range. If a run has a single gap between
    tokens, it is a mean, and percentiles are None.
    """
    measured = [run.measurement for run in runs]
    gaps = [seconds for one in measured for seconds in one.itl_seconds]
    has_percentiles = len(gaps) > len(runs)
    return {
        "contestant": entry[0],
        "scenario": entry[1],
        "num_runs": len(runs),
        "tokens_per_second": spread([one.tokens_per_second for one in measured]),
        "ttft_ms": _latency([one.ttft_seconds for one in measured]),
        "itl_ms": _latency([one.itl_seconds for one in measured] if has_percentiles else []),
        "itl_mean_ms": 1000 * sum(gaps) / len(gaps) if gaps else None,
        "rss_mib": percentile([one.rss_bytes for one in measured], 50) / MIB,
        "peak_rss_mib": max(one.peak_rss_bytes for one in measured) / MIB,
        "other_cpu": spread([run.other_cpu for run in runs]),
        "disk_read_mib": sum(run.disk_bytes for run in runs) / MIB,
        **{name: spread([one.extra[name] for one in measured]) for name in measured[0].extra},
    }


def is_quiet(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether other processes used at most `QUIET` of the CPU in most repeats of every row."""
    return all(one["other_cpu"]["median"] <= QUIET for one in rows)


def ratios(results: Results) -> dict[str, Ratio | None]:
    """All ratios by name; None if one of the compared scenarios was not run.

    A ratio is the median over repeats of ratios of runs of the same repeat, which were close in time.
    """
    runs = results.runs
    lora32 = (OURS, "lora32")
    base, lora1 = (OURS, "base"), (OURS, "lora1")
    vllm = _fastest(runs.get((VLLM, "lora32")), runs.get((VLLM_EAGER, "lora32")))
    many, few = (OURS, "zipf1000"), (OURS, "zipf5")
    prompts = (OURS, "prefill1000")
    return {
        "lora32_vs_vllm": _quotient(runs.get(lora32), vllm),
        "lora32_vs_peft": _quotient(runs.get(lora32), runs.get((PEFT, "lora32"))),
        "base_vs_llamacpp": _quotient(runs.get(base), runs.get((LLAMA, "base"))),
        "lora32_vs_base": _quotient(runs.get(lora32), runs.get(base)),
        "lora1_vs_base": _quotient(runs.get(lora1), runs.get(base)),
        "zipf1000_vs_5": _quotient(runs.get(many), runs.get(few)),
        "zipf1000_p99_ttft_vs_5": _quotient(runs.get(many), runs.get(few), _p99_ttft),
        "cold_minus_warm_ms": _figure(runs.get((OURS, "cold")), "cold_minus_warm_ms"),
        "registry_overhead": _figure(runs.get((OURS, "residents")), "registry_overhead"),
        "limit_fraction_base": _figure(runs.get((OURS, "profile_base")), "limit_fraction"),
        "limit_fraction_lora32": _figure(runs.get((OURS, "profile_lora32")), "limit_fraction"),
        "lookup_copying": _quotient(*_with_and_without(runs, "copying8")),
        "lookup_not_copying": _quotient(*_with_and_without(runs, "not_copying8")),
        "base_vs_vllm": _quotient(runs.get(base), runs.get((VLLM_BASE, "base"))),
        "prefill1000_vs_vllm": _quotient(runs.get(prompts), runs.get((VLLM_BASE, "prefill1000")), _prefill),
        "base_vs_llamacpp_16bit": _quotient(runs.get(base), _fastest_16bit(runs, "base", _throughput)),
        "int8_vs_llamacpp_q8": _quotient(runs.get((INT8, "base")), runs.get((LLAMA_Q8, "base"))),
        "prefill1000_vs_llamacpp_16bit": _quotient(
            runs.get(prompts), _fastest_16bit(runs, "prefill1000", _prefill), _prefill
        ),
    }


def _with_and_without(
    runs: Mapping[Entry, Sequence[Run]], scenario: str
) -> tuple[Sequence[Run] | None, Sequence[Run] | None]:
    """The runs with prompt lookup, and those of the same texts without."""
    return runs.get((LOOKUP, scenario)), runs.get((WITHOUT_LOOKUP, f"{scenario}_without"))


def _fastest_16bit(
    runs: Mapping[Entry, Sequence[Run]], scenario: str, figure: Callable[[Run], float]
) -> Sequence[Run] | None:
    """llama.cpp's faster format of 16 bits."""
    return _fastest(*(runs.get((name, scenario)) for name in (LLAMA, LLAMA_F16)), figure=figure)


def _throughput(run: Run) -> float:
    return run.measurement.tokens_per_second


def _prefill(run: Run) -> float:
    """Batches of prompts per second, until the last of them has its first token."""
    return 1 / max(run.measurement.ttft_seconds)


def _fastest(
    *contestants: Sequence[Run] | None, figure: Callable[[Run], float] = _throughput
) -> Sequence[Run] | None:
    """The runs with the highest median of `figure`; None if there are none."""
    present = [runs for runs in contestants if runs]
    return max(present, key=lambda runs: spread([figure(run) for run in runs])["median"], default=None)


def _p99_ttft(run: Run) -> float:
    return percentile(run.measurement.ttft_seconds, 99)


def _quotient(
    ours: Sequence[Run] | None, theirs: Sequence[Run] | None, figure: Callable[[Run], float] = _throughput
) -> Ratio | None:
    if ours is None or theirs is None:
        return None
    return _ratio([figure(one) / figure(other) for one, other in zip(ours, theirs, strict=True)])


def _figure(runs: Sequence[Run] | None, name: str) -> Ratio | None:
    return None if runs is None else _ratio([run.measurement.extra[name] for run in runs])


def _ratio(values: Sequence[float]) -> Ratio:
    found = spread(values)
    return Ratio(found["median"], found["min"], found["max"])


def _latency(repeats: Sequence[Sequence[float]]) -> dict[str, dict[str, float] | None]:
    """Percentiles in milliseconds. None if a repeat has no samples, and for p99 fewer than `MIN_FOR_P99`."""
    fewest = min(map(len, repeats), default=0)
    needed = {50: 1, 99: MIN_FOR_P99}
    return {
        f"p{percent}": spread([1000 * percentile(seconds, percent) for seconds in repeats])
        if fewest >= number
        else None
        for percent, number in needed.items()
    }
