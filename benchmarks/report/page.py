"""Renders `docs/benchmarks.md` from the JSON of `python -m benchmarks.engine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engine.figures import QUIET
from benchmarks.engine.launcher import OURS
from benchmarks.report.api import api_section
from benchmarks.report.chart import Bar, bar_chart
from benchmarks.report.ledger import ledger_section
from benchmarks.report.origin import commit_text, cpu_text
from tools.markdown import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HERE = Path(__file__).parent
CHART = "images/benchmarks.svg"
PRICE_PER_HOUR = 0.10
PROFILED = "profile_"
LIMITS = (
    "peak_gflop_s",
    "products_at_peak_ms",
    "products_alone_ms",
    "products_of_torch_ms",
    "read_gb_s",
    "adapters_mb",
)

# By figure: its label and its target.
BARS = {
    "lora32_vs_vllm": ("32 different adapters: throughput against vLLM's CPU build", ">= 4.5"),
    "lora32_vs_peft": ("32 different adapters: throughput against PEFT's mixed batch", ">= 12"),
    "zipf1000_vs_5": ("1,000 adapters on disk against 5: throughput", ">= 0.85"),
    "zipf1000_p99_ttft_vs_5": ("1,000 adapters on disk against 5: p99 time to first token", "<= 2"),
    "cold_minus_warm_ms": (
        "first token of an adapter that is not loaded, minus that of a loaded one, ms",
        "<= 20",
    ),
    "base_vs_vllm": ("no adapter: throughput against vLLM without LoRA", ">= 1.3"),
    "base_vs_llamacpp_16bit": ("no adapter: throughput against llama.cpp's best 16-bit format", ">= 1.5"),
    "int8_vs_llamacpp_q8": ("no adapter, int8: throughput against llama.cpp in Q8_0", ">= 1.2"),
    "prefill1000_vs_vllm": ("4 prompts of 1,000 tokens: speed against vLLM without LoRA", ">= 1.0"),
    "prefill1000_vs_llamacpp_16bit": (
        "4 prompts of 1,000 tokens: speed against llama.cpp's best 16-bit format",
        ">= 1.0",
    ),
    "limit_fraction_base": ("no adapter: the products' own time as a share of a step", ">= 0.60"),
    "limit_fraction_lora32": (
        "32 different adapters: the time of products and of reading rows as a share of a step",
        ">= 0.60",
    ),
    "lookup_copying": ("8 answers that copy: throughput with prompt lookup against without", ">= 1.5"),
    "lookup_not_copying": ("8 answers that do not copy: the same", ">= 0.97"),
    "registry_overhead": ("memory of a resident adapter beyond its weights", "<= 0.02"),
}
SCENARIOS = {
    "base": "no adapter",
    "lora1": "one adapter for all",
    "lora32": "32 different adapters",
    "prefill256": "4 prompts of 256 tokens",
    "prefill1000": "4 prompts of 1,000 tokens",
    "prefill4000": "4 prompts of 4,000 tokens",
    "chat": "4 chats of ten turns",
    "chat_without_cache": "4 chats of ten turns, without prefix cache",
    "ranks_mixed": "32 adapters of ranks 8, 16 and 64",
    "zipf5": "5 adapters, Zipf",
    "zipf1000": "1,000 adapters, Zipf",
}

# An earlier version of `benchmarks.engine` stored percentiles as medians alone.
_POOLED = (
    "Percentiles without a range are over all repeats together, and those of closed loops include the first "
    "requests of the clients: they are older than the method above."
)

# Without a target: these compare our engine with itself, so a faster base makes them worse.
OWN_RATIOS = {
    "lora32_vs_base": "32 different adapters against no adapter",
    "lora1_vs_base": "one adapter for all against no adapter",
}

# Parts of a decode step, by their names in `benchmarks.engine.profile`.
PARTS = {
    "layers": "all layers in one call",
    "products": "products of the base model outside that call, with the deltas computed in the same pass",
    "deltas": "adapter deltas computed in a separate pass",
    "attention": "attention",
    "row_operations": "norms, gates, rotary embedding",
    "argmax": "argmax of the logits",
    "rest": "remainder: scheduling, Python, the profiler",
}

# Cost of a request in the closed loop, by its names in `benchmarks.engine.ours`.
WORK = {
    "request_ms": "machine time, ms",
    "adapters_in_flight": "distinct adapters among the requests in flight",
    "slot_writes": "adapters copied into a slot",
    "adapter_loads": "adapters loaded",
    "loading_cpu_ms": "CPU time of loads, ms",
}


def page(
    report: Mapping[str, Any] | None,
    price_per_hour: float = PRICE_PER_HOUR,
    ledger: Mapping[str, Any] | None = None,
    api: Mapping[str, Any] | None = None,
) -> str:
    """The page as Markdown. Without `report` it lists the missing figures; without `ledger` and `api`, the
    reports of `python -m benchmarks.ledger` and `benchmarks.api`, it says that theirs are missing.
    """
    figures = dict.fromkeys(BARS) if report is None else report["ranges"]
    parts = [(HERE / "method.md").read_text()]
    parts += [_bars(figures)] if report is None else [_machine(report), _bars(figures)]
    if report is not None:
        parts += [_rows(report), _prompts(report), _profile(report), _adapter_work(report)]
        parts += [_cost(report, price_per_hour)]
    texts = ("below_target.md", "not_measured.md") if report is not None else ("not_measured.md",)
    parts += [ledger_section(ledger), api_section(api), *((HERE / name).read_text() for name in texts)]
    return "\n".join(part for part in parts if part)


def chart(report: Mapping[str, Any]) -> str:
    """Throughput of all engines by scenario, as SVG."""
    bars = [
        Bar(f"{row['contestant']}, {name}", speed["median"], speed["min"], speed["max"], is_ours)
        for scenario, name in SCENARIOS.items()
        for row in report["rows"]
        if row["scenario"] == scenario
        for speed, is_ours in [(row["tokens_per_second"], row["contestant"].startswith(OURS))]
    ]
    return bar_chart("New tokens per second (median, range of the repeats)", bars)


def _machine(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    flags = ", ".join(machine["flags"]) or "none"
    hardware = f"{cpu_text(machine)}, {machine['num_cores']} cores ({flags}), {machine['memory_gib']} GiB"
    software = f"{machine['system']}, Python {machine['python']}"
    effort = f"{report['num_threads']} threads, {report['num_repeats']} repeats"
    lines = table(["engine", "version", "settings"], _contestants(report))
    setup = f"{hardware}; {software}; {effort}; {commit_text(report)}; {report['finished_at']}."
    return "\n".join(["## Machine and settings", "", setup, "", *lines, ""])


def _contestants(report: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, report["versions"].get(name, "not run"), text] for name, text in report["settings"].items()
    ]


def _bars(figures: Mapping[str, Mapping[str, float] | None]) -> str:
    missing = [f"- {BARS[name][0]} (target: {BARS[name][1]})" for name in BARS if figures.get(name) is None]
    lines = ["## Targets", ""]
    found = [
        [text, bar, f"**{value['value']:.3g}**", f"{value['low']:.3g} to {value['high']:.3g}"]
        for name, (text, bar) in BARS.items()
        for value in [figures.get(name)]
        if value is not None
    ]
    if found:
        lines += [*table(["figure", "target", "measured", "range"], found), ""]
    if missing:
        lines += ["Not yet measured on an idle machine:", "", *missing, ""]
    own = [(label, figures.get(name)) for name, label in OWN_RATIOS.items()]
    ratios = [
        f"{label}: {ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        for label, ratio in own
        if ratio is not None
    ]
    if ratios:
        lines += [f"Throughput without a target: {'; '.join(ratios)}.", ""]
    return "\n".join(lines)


def _rows(report: Mapping[str, Any]) -> str:
    head = [
        "engine",
        "scenario",
        "tokens/s",
        "first token p50, p99 (ms)",
        "next token p50, p99 (ms)",
        "RSS (MiB)",
    ]
    rows = [
        [
            row["contestant"],
            _scenario(row),
            f"{row['tokens_per_second']['median']:,.0f}",
            _pair(row["ttft_ms"]),
            _pair(row["itl_ms"]) if row["itl_ms"]["p50"] is not None else _mean(row["itl_mean_ms"]),
            f"{row['rss_mib']:,.0f}",
        ]
        for row in _unprofiled(report)
    ]
    return "\n".join(
        [
            "## All measurements",
            "",
            f"![Throughput]({CHART})",
            "",
            *table([*head, "CPU of others (most)", "from disk (MiB)"], _with_conditions(report, rows)),
            "",
            *_disturbed(report),
        ]
    )


def _with_conditions(report: Mapping[str, Any], rows: list[list[str]]) -> list[list[str]]:
    conditions = [
        [
            f"{row['other_cpu']['median']:.0%} ({row['other_cpu']['max']:.0%})",
            f"{row['disk_read_mib']:,.0f}",
        ]
        for row in _unprofiled(report)
    ]
    return [row + more for row, more in zip(rows, conditions, strict=True)]


def _disturbed(report: Mapping[str, Any]) -> list[str]:
    """The rows of which a repeat was disturbed, and the figures that contain it."""
    found = [
        f"{row['contestant']}, {_scenario(row)} ({row['other_cpu']['max']:.0%})"
        for row in report["rows"]
        if row["other_cpu"]["max"] > QUIET
    ]
    texts = []
    if found:
        texts.append(
            f"In a repeat of these rows other processes used more than {QUIET:.0%} of the processor: "
            f"{'; '.join(found)}. A median over the repeats leaves such a repeat out, its range does not."
        )
    if any("min" not in row["ttft_ms"]["p50"] for row in report["rows"] if row["ttft_ms"]["p50"]):
        texts.append(_POOLED)
    return [" ".join(texts), ""] if texts else []


def _scenario(row: Mapping[str, Any]) -> str:
    name: str = row["scenario"]
    return SCENARIOS.get(name, name.replace("_", " "))


def _unprofiled(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows without those of profiled runs, which the profiler slows down."""
    return [row for row in report["rows"] if not row["scenario"].startswith(PROFILED)]


def _prompts(report: Mapping[str, Any]) -> str:
    speeds = {
        (row["contestant"], row["scenario"]): row["prompt_tokens_per_second"]
        for row in report["rows"]
        if "prompt_tokens_per_second" in row
    }
    if not speeds:
        return ""
    scenarios = [name for name in SCENARIOS if any(scenario == name for _, scenario in speeds)]
    contestants = dict.fromkeys(name for name, _ in speeds)
    rows = [
        [
            name,
            *(f"{speeds[name, each]['median']:,.0f}" if (name, each) in speeds else "" for each in scenarios),
        ]
        for name in contestants
    ]
    head = ["prompt tokens/s", *(SCENARIOS[scenario] for scenario in scenarios)]
    return "\n".join(["## Long prompts", "", *table(head, rows), ""])


def _profile(report: Mapping[str, Any]) -> str:
    found = {
        row["scenario"].removeprefix(PROFILED): row
        for row in report["rows"]
        if row["scenario"].startswith(PROFILED)
    }
    if not found:
        return ""
    measured = [name for name in PARTS if _is_measured(f"{name}_ms", found.values())]
    times = {name: [f"{row[f'{name}_ms']['median']:.1f}" for row in found.values()] for name in measured}
    whole = [f"**{row['step_ms']['median']:.1f}**" for row in found.values()]
    lines = table(
        ["part of a step, ms", *(SCENARIOS[scenario] for scenario in found)],
        [["whole step", *whole], *([PARTS[name], *cells] for name, cells in times.items())],
    )
    last = next(reversed(found.values()))  # the scenario with most adapters
    known = {name: last[name]["median"] for name in LIMITS}
    text = (
        "Profile of steps in which 32 requests decode one token each. Limits of the machine, measured in the "
        f"same processes: the arithmetic peak is {known['peak_gflop_s']:,.0f} GFLOP/s, at which the matrix "
        f"products of a step would take {known['products_at_peak_ms']:.1f} ms. The products alone, with "
        f"weights read from memory each time, take {known['products_alone_ms']:.1f} ms, and "
        f"{known['products_of_torch_ms']:.1f} ms with torch. Products of a single token, which are bound by "
        f"memory, read {known['read_gb_s']:.0f} GB/s. The rows of 32 adapters are "
        f"{known['adapters_mb']:.0f} MB per step."
    )
    if "base" in found:
        text += _adapter_bound(found["base"]["step_ms"]["median"], last["step_ms"]["median"], known)
    return "\n".join(["## Time of a decode step", "", text, "", *lines, ""])


def _is_measured(part: str, rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every row has the part, and one spends time in it."""
    found = [row.get(part) for row in rows]
    return None not in found and any(round(each["median"], 1) for each in found if each)


def _adapter_bound(step_ms: float, step_ms_of_32: float, known: Mapping[str, float]) -> str:
    """Time of a distinct adapter, given a step of `step_ms` without and one of 32, and its lower bound."""
    reading_ms = known["adapters_mb"] / known["read_gb_s"]
    return (
        f" At that rate they take {reading_ms:.1f} ms to read. Each distinct adapter costs a step "
        f"{(step_ms_of_32 - step_ms) / 32:.2f} ms, of which {reading_ms / 32:.2f} ms are that reading."
    )


def _adapter_work(report: Mapping[str, Any]) -> str:
    found = [row for row in report["rows"] if "request_ms" in row]
    if not found:
        return ""
    lines = table(
        ["per request", *(SCENARIOS[row["scenario"]] for row in found)],
        [[text, *(f"{row[name]['median']:.2f}" for row in found)] for name, text in WORK.items()],
    )
    text = (
        "The same requests in both cases, medians over the turns. With more distinct adapters in flight each "
        "step reads more rows, which fewer tokens share."
    )
    return "\n".join(["## Cost of many adapters", "", text, "", *lines, ""])


def _cost(report: Mapping[str, Any], price: float) -> str:
    speeds = {
        (row["contestant"], row["scenario"]): row["tokens_per_second"]["median"] for row in report["rows"]
    }
    found = [(name, speed) for (name, scenario), speed in speeds.items() if scenario == "lora32"]
    many = report["ratios"]["zipf1000_vs_5"]
    if not found or many is None:
        return ""
    rows = [[name, SCENARIOS["lora32"], speed] for name, speed in found]
    rows.insert(1, [OURS, "1,000 adapters", speeds[OURS, "lora32"] * min(1.0, many)])
    lines = table(
        ["engine", "adapters", "tokens/s", "cost of a million tokens"],
        [
            [name, adapters, f"{speed:,.0f}", f"{cost_of_million(price, speed):.3f}"]
            for name, adapters, speed in rows
        ],
    )
    formula = (
        f"Each engine on this machine, at {price:.2f} per hour (`--price-per-hour`): price / (tokens per "
        "second x 3600) x 1,000,000. With 1,000 adapters: the speed of 32 times the ratio of 1,000 to 5."
    )
    return "\n".join(["## Cost of a million tokens", "", formula, "", *lines, ""])


def cost_of_million(price_per_hour: float, tokens_per_second: float) -> float:
    """Cost of a million new tokens, in the currency of `price_per_hour`."""
    return price_per_hour / (tokens_per_second * 3_600) * 1_000_000


def _pair(latency: Mapping[str, Mapping[str, float] | None]) -> str:
    return ", ".join("-" if value is None else _with_range(value) for value in latency.values())


def _with_range(value: Mapping[str, float]) -> str:
    middle = f"{value['median']:,.1f}"
    return f"{middle} ({value['min']:,.1f} to {value['max']:,.1f})" if "min" in value else middle


def _mean(value: float | None) -> str:
    return "-" if value is None else f"mean {value:,.1f}"
