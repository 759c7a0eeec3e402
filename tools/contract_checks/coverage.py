"""Measures the coverage of contracts/ by the Solidity tests and fails below 98 % of lines or statements.

Hardhat writes instrumented artefacts to the folder from which contracts are deployed, so the check runs on a
copy under build/.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from tools.contract_checks.common import BUILD, NODE, ROOT, Clock, fail

LEAST = 98.0
COPIED = (
    "contracts",
    "tests/contracts",
    "tests/vectors",
    "hardhat.config.js",
    "backend/chain/hardhat.config.js",
    "package.json",
)
ROW = re.compile(r"^║ (?P<name>\S+) +│ (?P<lines>[\d.]+) +│ (?P<statements>[\d.]+) +│ (?P<missing>.*?) *║$")


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    lines: float
    statements: float
    missing: str


def prepare() -> None:
    """Update the copy. Its build folder is kept, so that a second run compiles only changed files."""
    copy = BUILD / "coverage"
    for name in COPIED:
        (source, target) = (ROOT / name, copy / name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    if not (copy / "node_modules").exists():
        (copy / "node_modules").symlink_to(ROOT / "node_modules")


def measure() -> list[Row]:
    """Run the tests and return one row per file and the row `Total`, in percent."""
    command = [str(NODE), "node_modules/hardhat/dist/src/cli.js", "test", "solidity", "--coverage"]
    # Instrumented code is larger than what is deployed, so the test that compares the two is left out.
    command += ["--grep-exclude", "test_finding11"]
    # The parser needs a table without colours. Instrumented code is slow, and more fuzzing adds no coverage.
    few = {"FUZZ_RUNS": "32", "INVARIANT_RUNS": "8", "INVARIANT_DEPTH": "24"}
    env = os.environ | few | {"NO_COLOR": "1", "HARDHAT_DISABLE_TELEMETRY_PROMPT": "true"}
    env.pop("FORCE_COLOR", None)
    done = subprocess.run(
        command, cwd=BUILD / "coverage", env=env, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        fail(f"coverage: the tests failed:\n{(done.stdout + done.stderr)[-6000:]}")
    matches = filter(None, map(ROW.match, done.stdout.splitlines()))
    rows = [Row(m["name"], float(m["lines"]), float(m["statements"]), m["missing"]) for m in matches]
    if not any(row.name == "Total" for row in rows):
        fail(f"coverage: Hardhat's report has no coverage table:\n{done.stdout[-2000:]}")
    return rows


def main() -> None:
    clock = Clock()
    prepare()
    rows = measure()
    for row in rows:
        missing = f"  not executed: lines {row.missing}" if row.missing.strip("- ") else ""
        print(f"{row.name:40} lines {row.lines:6.2f} %  statements {row.statements:6.2f} %{missing}")
    total = next(row for row in rows if row.name == "Total")
    print(f"coverage: {total.lines:.2f} % of lines, {total.statements:.2f} % of statements, {clock}")
    print(f"coverage: HTML report in {(BUILD / 'coverage/coverage/html/index.html').relative_to(ROOT)}")
    if min(total.lines, total.statements) < LEAST:
        fail(f"coverage: below {LEAST:g} %")


if __name__ == "__main__":
    main()
