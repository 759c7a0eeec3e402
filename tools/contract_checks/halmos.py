"""Proves the money's invariants 2 and 5 symbolically with Halmos, on the compiled contracts.

Every `check_...` of tests/proofs must hold for all arguments and any storage, without a loop cut short; every
`refute_...`, a false claim about the same code, must be refuted by a counterexample. Anything else fails: a
counterexample, a time-out, a path that the prover could not follow.
"""

import argparse
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.contract_checks.common import BUILD, HERE, ROOT, Clock, compile_contracts, fail, isolated, tool

OUTCOMES = ("holds", "has a counterexample", "timed out", "got stuck", "only reverts", "broke down")
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
    """The verdicts on all functions whose names begin with `prefix` and that `pattern` matches."""
    programs = tool("halmos")
    report = PROJECT / f"{prefix}.json"
    report.unlink(missing_ok=True)
    solver = f"{programs / 'python'} {HERE / 'solver.py'} {seconds}"
    command = [str(programs / "halmos"), "--root", str(PROJECT), "--no-status", "--json-output", str(report)]
    command += ["--match-test", f"^{prefix}_.*({pattern})", "--loop", "8", "--solver-threads", "2"]
    # Signatures of 65 bytes, one collection or refund a call: the loop's body is what the proofs are about.
    command += ["--default-bytes-lengths", "65", "--default-array-lengths", "1"]
    command += ["--solver-command", solver, "--solver-timeout-assertion", f"{seconds + 5}s"]
    env = isolated(programs)
    env["PATH"] = f"{_builder().parent}:{env['PATH']}"
    done = subprocess.run(command, cwd=PROJECT, env=env, check=False, capture_output=True, text=True)
    (PROJECT / f"{prefix}.log").write_text(done.stdout + done.stderr)
    if not report.exists():
        fail(f"Halmos did not run to its end:\n{(done.stdout + done.stderr)[-4000:]}")
    return _verdicts(report)


def _builder() -> Path:
    """What Halmos calls as Forge, to build what `solc.mjs` has built already."""
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
    parser.add_argument(
        "--match", default="", help="only functions whose names this regular expression matches"
    )
    parser.add_argument(
        "--seconds", type=int, default=120, help="for each question to the solver (default: 120)"
    )
    arguments = parser.parse_args()
    clock = Clock()
    shutil.rmtree(PROJECT, ignore_errors=True)
    compile_contracts("forge", PROJECT / "out", "tests/proofs")
    verdicts = []
    for prefix in ("check", "refute"):
        for verdict in prove(prefix, arguments.match, arguments.seconds):
            cut = "" if verdict.is_complete else ", a loop was cut short"
            print(f"{verdict.name}: {verdict.outcome}{cut} ({verdict.seconds:.1f} s)", flush=True)
            verdicts.append(verdict)
    bad = [verdict.name for verdict in verdicts if not verdict.is_good]
    held = sum(verdict.outcome == HOLDS for verdict in verdicts)
    print(f"halmos: {held} proofs hold, {len(verdicts) - held} claims refuted, {clock}")
    if bad or not verdicts:
        names = ", ".join(bad) or "nothing was proved"
        fail(f"halmos: not as it must be: {names}; see {PROJECT.relative_to(ROOT)}/*.log")


if __name__ == "__main__":
    main()
