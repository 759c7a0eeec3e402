"""Solves one SMT-LIB file for Halmos: yices and integers.py at once, the first answer counts.

    python solver.py SECONDS FILE

Yices is quick on storage and hashes and gives counterexamples; what multiplies and divides amounts it cannot
do. Prints what an SMT-LIB solver prints. Runs in Halmos's environment.
"""

import subprocess
import sys
import time
from pathlib import Path

ANSWERS = ("sat", "unsat")


def solve(path: str, seconds: int) -> str:
    """What the first solver to decide prints; `unknown` if none does in time."""
    integers = Path(__file__).with_name("integers.py")
    commands = [
        # Each has the limit of its own, so that none outlives a prover that was ended.
        ["yices-smt2", "--smt2-model-format", f"--timeout={seconds}", path],
        [sys.executable, str(integers), path, str(seconds)],
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        return _first_answer(running, seconds)
    finally:
        for process in running:
            process.kill()
            process.wait()


def _first_answer(running: list[subprocess.Popen[str]], seconds: int) -> str:
    waiting = list(running)
    deadline = time.monotonic() + seconds
    while waiting and time.monotonic() < deadline:
        for process in [each for each in waiting if each.poll() is not None]:
            waiting.remove(process)
            output = process.communicate()[0]
            if output.split("\n", 1)[0] in ANSWERS:
                return output
        time.sleep(0.02)
    return "unknown\n"


if __name__ == "__main__":
    print(solve(sys.argv[2], int(sys.argv[1])), end="", flush=True)
