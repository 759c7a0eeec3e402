"""Simulates a fleet and writes docs/scale.md: `python -m benchmarks.scale [--render]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.scale.costs import read_costs
from benchmarks.scale.page import CHART, chart, page
from benchmarks.scale.study import study

DOCS = Path(__file__).resolve().parents[2] / "docs"
REPORT, KEPT, PAGE = "benchmarks.json", "scale.json", "scale.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", action="store_true", help="render the stored runs without simulating")
    options = parser.parse_args()
    report = json.loads((DOCS / REPORT).read_text())
    kept = DOCS / KEPT
    found = json.loads(kept.read_text()) if options.render else study(read_costs(report))
    kept.write_text(json.dumps(found, indent=1) + "\n")
    (DOCS / PAGE).write_text(page(found, report))
    (DOCS / CHART).write_text(chart(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
