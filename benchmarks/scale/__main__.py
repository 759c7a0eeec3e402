"""Simulates a fleet and writes docs/scale.md: `python -m benchmarks.scale [--render] [--replicas FILE]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.scale.costs import read_costs
from benchmarks.scale.page import CHART, chart, page
from benchmarks.scale.study import study

DOCS = Path(__file__).resolve().parents[2] / "docs"
REPORT, KEPT, KEPT_REPLICAS, PAGE = "benchmarks.json", "scale.json", "scale_replicas.json", "scale.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", action="store_true", help="render the stored runs without simulating")
    parser.add_argument(
        "--replicas",
        type=Path,
        metavar="FILE",
        help="JSON of `python -m benchmarks.scale.replicas`, which is stored; default: the stored one",
    )
    options = parser.parse_args()
    report, replicas = json.loads((DOCS / REPORT).read_text()), stored_replicas(options.replicas)
    found = json.loads((DOCS / KEPT).read_text()) if options.render else study(read_costs(report))
    for name, stored in ((KEPT, found), (KEPT_REPLICAS, replicas)):
        if stored is not None:
            (DOCS / name).write_text(json.dumps(stored, indent=1) + "\n")
    (DOCS / PAGE).write_text(page(found, report, replicas))
    (DOCS / CHART).write_text(chart(found))
    return 0


def stored_replicas(file: Path | None = None) -> dict[str, Any] | None:
    """The runs of `benchmarks.scale.replicas` in `file`, by default the stored ones; None without them."""
    kept = DOCS / KEPT_REPLICAS
    if file is None and not kept.exists():
        return None
    found: dict[str, Any] = json.loads((file or kept).read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
