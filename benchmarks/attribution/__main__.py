"""Measures attribution methods against retraining: `python -m benchmarks.attribution`.

Adapters are trained on random halves of each study's contributors. What they found is stored in a file of
`--truth`: a killed run resumes, concurrent processes share the work, and another machine continues it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.attribution.command import SMALL_STUDIES, STUDIES, add_truth, make_parser, run, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from benchmarks.attribution.study import Plan

COSTS = ("serving_cost_paid", "serving_cost_stage", "machine")
"""Keys of the report that `--costs` measures."""
NUM_SUBSETS = 24
NUM_REPEATS = 12


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.page:
        return _write_page(options.page)
    return run(lambda: _measure(options), options.threads, prints=options.json)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.attribution.study import Plan, train

    sizes = options.subsets, options.repeats, options.threads
    plans = [Plan(each, options.work, options.truth, *sizes, options.base_model) for each in options.study]
    trains = not (options.no_training or options.games or options.uploads or options.costs)
    for plan in plans if trains else ():
        train(plan, show)
    return _report(plans, options)


def _write_page(folder: Path) -> int:
    from benchmarks.attribution import page

    report = page.read(folder)
    if report is None:
        print(f"error: {folder / page.KEPT} does not exist: run make bench-attribution", file=sys.stderr)
        return 1
    page.write(folder, report)
    return 0


def _report(plans: Sequence[Plan], options: argparse.Namespace) -> dict[str, Any]:
    """The report of `plans`, and with `--docs` its page. Studies and parts of a report there that are not
    measured now stay.
    """
    from benchmarks.attribution import page
    from benchmarks.attribution.games import play, read_games, report_games
    from benchmarks.attribution.gaming import report_gaming
    from benchmarks.attribution.report import combine, measure_costs, report_study
    from benchmarks.attribution.uploads import measure_repeats

    measured: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    part: dict[str, Any] = {}
    if options.gaming:
        part = {"gaming": report_gaming(plans[0], show)}
    elif options.uploads:
        part = {"uploads": [measure_repeats(plan) for plan in plans]}
    elif options.games:
        plan = plans[0]
        played = read_games(plan) if options.no_training else play(plan, options.games, show)
        part = {"games": report_games(plan, played)}
    elif options.costs:
        costs = measure_costs(plans[0], show)
    else:
        measured = {plan.name: report_study(plan, show) for plan in plans}
    # Read after the measurement, during which other processes may add parts to the report.
    old = (page.read(options.docs) if options.docs else None) or {}
    studies = _merged(old.get("studies", []), measured, STUDIES)
    small = _merged(old.get("small_studies", []), measured, SMALL_STUDIES)
    costs = {name: old[name] for name in COSTS if name in old} | costs
    found = {**old, **combine(studies, costs), "small_studies": small, **part}
    if options.docs:
        page.write(options.docs, found)
    return found


def _merged(
    old: Sequence[dict[str, Any]], measured: Mapping[str, dict[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    studies = {**{each["name"]: each for each in old}, **measured}
    return [studies[name] for name in names if name in studies]


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("benchmarks.attribution", __doc__, (*STUDIES, *SMALL_STUDIES))
    add_truth(parser)
    add = parser.add_argument
    add("--base-model", default="", help="base model; default: the bundled one")
    add("--subsets", type=int, default=NUM_SUBSETS, help=f"retrainings on halves; default: {NUM_SUBSETS}")
    text = "halves to train again with another seed"
    add("--repeats", type=int, default=NUM_REPEATS, help=f"{text}; default: {NUM_REPEATS}")
    add("--no-training", action="store_true", help="report on what was trained")
    text = "retrain with attacks instead, on the first study, with this many seeds"
    add("--games", type=int, default=0, metavar="SEEDS", help=text)
    add("--gaming", action="store_true", help="measure gaming instead, on the first study")
    text = "measure how the check of uploads judges rows made of the studies' answers instead; no training"
    add("--uploads", action="store_true", help=text)
    text = "measure what serving loses to attribution instead, on the first study; needs an idle machine"
    add("--costs", action="store_true", help=text)
    add("--json", action="store_true", help="print one JSON object")
    add("--docs", type=Path, help="folder for the page, its charts and its JSON")
    text = "only write the page of this folder again, from its JSON"
    add("--page", type=Path, metavar="DOCS", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
