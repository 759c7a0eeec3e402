"""Solves one SMT-LIB file for Halmos with yices and integers.py in parallel; the first answer counts.

    python solver.py SECONDS FILE

Yices is fast on storage and hashes and gives counterexamples, but cannot solve products and quotients of
amounts. The output is that of an SMT-LIB solver. Runs in Halmos's environment.
"""

import subprocess
import sys
import time
from pathlib import Path

ANSWERS = ("sat", "unsat")


def solve(path: str, seconds: int) -> str:
    """Return the output of the first solver that decides; `unknown` if none does in time."""
    integers = Path(__file__).with_name("integers.py")
    commands = [
        # Each solver has its own time limit, so that it ends even if Halmos is killed.
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
