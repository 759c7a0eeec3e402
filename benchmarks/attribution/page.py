"""Writes `docs/attribution.md` and its chart from the report of `python -m benchmarks.attribution`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.attribution.chart import Interval, interval_chart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).parent
PAGE, KEPT, CHART = "attribution.md", "attribution.json", "images/attribution.svg"
KINDS = ("in-sample", "held-out", "generated")
FIRST_GRADIENT_METHOD = "gradient-ridge-1"
"""Assumed for reports that do not name their method."""
MISSING = "Not measured yet; run `make bench-attribution`."


def write(folder: Path, report: Mapping[str, Any] | None) -> None:
    """Write the page to `folder`, and with a report also its chart and JSON."""
    (folder / CHART).parent.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(page(report), encoding="utf-8")
    if report is not None:
        (folder / CHART).write_text(chart(report), encoding="utf-8")
        (folder / KEPT).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def page(report: Mapping[str, Any] | None) -> str:
    """The page as Markdown; without a report it says that the figures are missing."""
    text = (HERE / "page.md").read_text(encoding="utf-8")
    for name, write_part in (("figures", _accuracy), ("gaming", _gaming)):
        part = f"{MISSING}\n"
        if report is not None and (name == "figures" or name in report):  # older reports lack "gaming"
            part = write_part(report)
        text = text.replace(f"<!-- {name} -->\n", part)
    return text


def chart(report: Mapping[str, Any]) -> str:
    """LDS of all methods and the ceiling, as SVG."""
    rows = [Interval(name, each["lds"], *each["interval"]) for name, each in _ranked(report)]
    return interval_chart("LDS: rank correlation with retraining (95 % interval)", rows, report["ceiling"])


def _accuracy(report: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{number} {kind}" for kind, number in report["num_by_kind"].items())
    config, machine = report["config"], report["machine"]
    ceiling = report["ceiling"]
    setup = (
        f"{report['base_model']}, rank {config['rank']}, {config['epochs']:g} epochs, "
        f"fp32; {report['num_rows']} rows "
        f"of {len(report['contributors'])} contributors ({', '.join(report['contributors'])}); "
        f"{report['num_answers']} answers ({counts}); {report['num_subsets']} retrainings on random halves; "
        f"gradients by `{report.get('gradient_method', FIRST_GRADIENT_METHOD)}`. "
        f"{machine['cpu']}, {machine['system']}."
    )
    top = (
        "The ceiling has not been measured."
        if ceiling is None
        else f"Ceiling: two seeds agree at **{ceiling:.2f}**, over {report['num_repeats']} halves."
    )
    planned = report["planned"]
    done = (report["num_subsets"], report["num_repeats"])
    if done != (planned["subsets"], planned["repeats"]):
        top += (
            f" **The run is incomplete**: {done[0]} of {planned['subsets']} halves, {done[1]} of "
            f"{planned['repeats']} repeats. The figures are preliminary."
        )
    head = [
        "method",
        "LDS",
        "95 % interval",
        "lead over hidden states, 95 % interval",
        *KINDS,
        "as paid",
        "cost",
        "about",
    ]
    rows = [_row(name, each) for name, each in _ranked(report)]
    return "\n".join([setup, "", f"![LDS of each method]({CHART})", "", *_table(head, rows), "", top, ""])


def _gaming(report: Mapping[str, Any]) -> str:
    methods = [name for name, _ in _ranked(report)]
    games = list(report["gaming"][methods[0]])
    rows = [
        [game, *(_gain(report["gaming"][name][game]) for name in methods)]
        for game in sorted(games, key=lambda game: -report["gaming"][methods[-1]][game]["mean"])
    ]
    return "\n".join([*_table(["attack", *methods], rows), ""])


def _gain(each: Mapping[str, float]) -> str:
    return f"{100 * each['mean']:+.1f} ({100 * each['worst']:+.1f})"


def _ranked(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The methods in ascending order of LDS."""
    return sorted(report["methods"].items(), key=lambda item: float(item[1]["lds"]))


def _row(name: str, each: Mapping[str, Any]) -> list[str]:
    low, high = each["interval"]
    behind, ahead = each["lead_interval"]
    kinds = [f"{each['by_kind'][kind]:.2f}" if kind in each["by_kind"] else "" for kind in KINDS]
    return [
        name,
        f"**{each['lds']:.2f}**",
        f"{low:.2f} to {high:.2f}",
        f"{behind:+.2f} to {ahead:+.2f}",
        *kinds,
        f"{each['lds_as_paid']:.2f}",
        f"{each['cost']:.1f}",
        f"{each['aboutness']:.0%} ({each['aboutness_held_out']:.0%})",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
