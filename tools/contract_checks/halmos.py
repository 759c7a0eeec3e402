"""Proves the payment invariants 2, 5 and 9 symbolically with Halmos, on the compiled contracts.

Every `check_...` of tests/proofs must hold for all arguments and any storage, without bounded loops. Every
`refute_...`, a false claim about the same code, must be refuted by a counterexample. All other outcomes fail:
a counterexample, a time-out, a path that Halmos could not explore.
"""

import argparse
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.contract_checks.common import BUILD, HERE, ROOT, Clock, compile_contracts, fail, isolated, tool

OUTCOMES = ("holds", "has a counterexample", "timed out", "got stuck", "only reverts", "crashed")
HOLDS, REFUTED = OUTCOMES[:2]
PROJECT = BUILD / "halmos"


@dataclass(frozen=True, slots=True)
class Verdict:
    name: str
    outcome: str
    is_complete: bool
    seconds: float

    @property
    def is_good(self) -> bool:
        return self.is_complete and self.outcome == (HOLDS if self.name.startswith("check_") else REFUTED)


def prove(prefix: str, pattern: str, seconds: int) -> list[Verdict]:
    """Return the verdicts on the functions that start with `prefix` and match `pattern`."""
    programs = tool("halmos")
    report = PROJECT / f"{prefix}.json"
    report.unlink(missing_ok=True)
    solver = f"{programs / 'python'} {HERE / 'solver.py'} {seconds}"
    command = [str(programs / "halmos"), "--root", str(PROJECT), "--no-status", "--json-output", str(report)]
    command += ["--match-test", f"^{prefix}_.*({pattern})", "--loop", "8", "--solver-threads", "2"]
    # Signatures have 65 bytes, and calls have one collection or refund: the proofs cover the loop body.
    command += ["--default-bytes-lengths", "65", "--default-array-lengths", "1"]
    command += ["--solver-command", solver, "--solver-timeout-assertion", f"{seconds + 5}s"]
    env = isolated(programs)
    env["PATH"] = f"{_builder().parent}:{env['PATH']}"
    done = subprocess.run(command, cwd=PROJECT, env=env, check=False, capture_output=True, text=True)
    (PROJECT / f"{prefix}.log").write_text(done.stdout + done.stderr)
    if not report.exists():
        fail(f"halmos: Halmos failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return _verdicts(report)


def _builder() -> Path:
    """Create the program that Halmos runs instead of Forge; it does nothing, as `solc.mjs` already built."""
    path = PROJECT / "bin" / "forge"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


def _verdicts(report: Path) -> list[Verdict]:
    results = json.loads(report.read_text())["test_results"] or {}
    return [
        Verdict(
            each["name"].split("(")[0],
            OUTCOMES[min(each["exitcode"], len(OUTCOMES) - 1)],
            not each["num_bounded_loops"],
            each["time"][0] if each["time"] else 0.0,
        )
        for tests in results.values()
        for each in tests
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--match", default="", help="check only functions that match this regular expression")
    parser.add_argument(
        "--seconds", type=int, default=120, help="time limit of each solver query (default: 120)"
    )
    arguments = parser.parse_args()
    clock = Clock()
    shutil.rmtree(PROJECT, ignore_errors=True)
    compile_contracts("forge", PROJECT / "out", "tests/proofs")
    verdicts = []
    for prefix in ("check", "refute"):
        for verdict in prove(prefix, arguments.match, arguments.seconds):
            cut = "" if verdict.is_complete else ", with a bounded loop"
            print(f"{verdict.name}: {verdict.outcome}{cut} ({verdict.seconds:.1f} s)", flush=True)
            verdicts.append(verdict)
    bad = [verdict.name for verdict in verdicts if not verdict.is_good]
    held = sum(verdict.outcome == HOLDS for verdict in verdicts)
    print(f"halmos: {held} proofs hold, {len(verdicts) - held} claims refuted, {clock}")
    if bad or not verdicts:
        names = ", ".join(bad) or "no function matched"
        fail(f"halmos: unexpected outcomes: {names}; see {PROJECT.relative_to(ROOT)}/*.log")


if __name__ == "__main__":
    main()
