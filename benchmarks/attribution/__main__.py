"""Measures attribution methods against retraining: `python -m benchmarks.attribution`.

Adapters are trained on random halves of each study's contributors. What they found is stored in a file of
`--truth`: a killed run resumes, concurrent processes share the work, and another machine continues it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.attribution.study import Plan

STUDIES = ("docstrings", "fortunes", "instructions")
SMALL_STUDIES = ("docstrings-8",)
"""For base models that take longer to train; reported apart."""
COSTS = ("serving_cost_paid", "serving_cost_stage", "machine")
"""Keys of the report that `--costs` measures."""
NUM_SUBSETS = 24
NUM_REPEATS = 12


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.page:
        return _write_page(options.page)
    # Read when torch starts its thread pools. Spinning threads would slow other processes down.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from backend.domain.errors import DomainError
    from benchmarks.attribution.study import Plan, train

    plans = [
        Plan(
            name,
            options.work,
            options.truth,
            options.subsets,
            options.repeats,
            options.threads,
            options.base_model,
        )
        for name in options.study
    ]
    try:
        with redirect_stdout(sys.stderr):  # prints of libraries
            for plan in plans:
                if not (options.no_training or options.games or options.uploads or options.costs):
                    train(plan, _show)
            found = _report(plans, options)
    except (DomainError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found, sort_keys=True, indent=1))
    return 0


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
        part = {"gaming": report_gaming(plans[0], _show)}
    elif options.uploads:
        part = {"uploads": [measure_repeats(plan) for plan in plans]}
    elif options.games:
        plan = plans[0]
        played = read_games(plan) if options.no_training else play(plan, options.games, _show)
        part = {"games": report_games(plan, played)}
    elif options.costs:
        costs = measure_costs(plans[0], _show)
    else:
        measured = {plan.name: report_study(plan, _show) for plan in plans}
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


def _show(kind: str, data: Mapping[str, Any]) -> None:
    print(json.dumps({"kind": kind, **data}), file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attribution",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-training", action="store_true", help="report on what was trained")
    parser.add_argument("--gaming", action="store_true", help="measure gaming instead, on the first study")
    parser.add_argument(
        "--games",
        type=int,
        default=0,
        metavar="SEEDS",
        help="retrain with attacks instead, on the first study, with this many seeds",
    )
    parser.add_argument(
        "--uploads",
        action="store_true",
        help="measure how the check of uploads judges rows made of the studies' answers instead; no training",
    )
    parser.add_argument(
        "--costs",
        action="store_true",
        help="measure what serving loses to attribution instead, on the first study; needs an idle machine",
    )
    parser.add_argument("--docs", type=Path, help="folder for the page, its charts and its JSON")
    parser.add_argument(
        "--page", type=Path, metavar="DOCS", help="only write the page of this folder again, from its JSON"
    )
    parser.add_argument(
        "--study",
        nargs="+",
        choices=(*STUDIES, *SMALL_STUDIES),
        default=STUDIES,
        help="default: the first three",
    )
    parser.add_argument("--base-model", default="", help="base model; default: the bundled one")
    parser.add_argument(
        "--subsets",
        type=int,
        default=NUM_SUBSETS,
        help=f"number of retrainings on halves; default: {NUM_SUBSETS}",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=NUM_REPEATS,
        help=f"halves to train again with another seed; default: {NUM_REPEATS}",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of each process; default: 2")
    parser.add_argument(
        "--work", type=Path, default=Path("build/bench/attribution"), help="folder for files between runs"
    )
    parser.add_argument(
        "--truth", type=Path, default=Path("docs/attribution"), help="folder for what retraining found"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
