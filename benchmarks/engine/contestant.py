"""Contestants: child processes that run workloads on request and sleep otherwise.

Parent and child exchange lines of JSON over the child's standard input and output. Other output of the child
and its libraries goes to its log. Standard library only: peers import this module in their own environments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.engine.machine import Usage
from benchmarks.engine.measure import Measurement
from benchmarks.processes import start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
SETTLE_SECONDS = 0.5
"""Pause before a run: threads of the contestant that ran before spin on after their last product (Intel's
OpenMP for 200 ms, KMP_BLOCKTIME), which would take processor time from a short run.
"""


class ContestantError(Exception):
    """A contestant failed or exited; the message names its log."""


@dataclass(frozen=True, slots=True)
class Run:
    """A measurement, with the share of the machine's CPU time used by other processes or the host, and the
    bytes read from disks.
    """

    measurement: Measurement
    other_cpu: float
    disk_bytes: int


class Contestant:
    """The parent's side. A context manager that stops the process."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the process and wait for its first message. Raises `ContestantError`."""
        self.name = name
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = start(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.settings: dict[str, Any] = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, task: str, workload: Any) -> Run:
        """Run `task` on a workload dataclass in the child. Raises `ContestantError`."""
        time.sleep(SETTLE_SECONDS)
        before = Usage.now(self._process.pid)
        self._send({"task": task, "workload": asdict(workload)})
        measurement = Measurement(**self._answer())
        after = Usage.now(self._process.pid)
        return Run(measurement, after.other_share_since(before), after.disk_bytes - before.disk_bytes)

    def close(self) -> None:
        """Close standard input and wait for the exit; kill the process after 30 s."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - `Popen` was given a pipe
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._error("exited early") from error

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - `Popen` was given a pipe
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise self._error(f"exited with status {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._error(answer["error"])
        return answer

    def _error(self, text: str) -> ContestantError:
        return ContestantError(f"{self.name}: {text}; its log is {self._log}")


def serve(settings: Mapping[str, Any], tasks: Mapping[str, Callable[..., Measurement]]) -> None:
    """The child's side: send `settings`, then run tasks until standard input closes.

    Call `reserve_stdout` before anything that may print.
    """
    _send_to_parent({**settings, "started_after_seconds": time.process_time()})
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = asdict(tasks[command["task"]](**command["workload"]))
        except Exception as error:
            _send_to_parent({"error": f"{command['task']} failed: {error!r}"})
            raise
        _send_to_parent(answer)


def reserve_stdout() -> None:
    """Reserve standard output for messages to the parent; redirect prints to standard error."""
    global _stdout  # noqa: PLW0603 - one process has one standard output
    _stdout = os.dup(1)
    os.dup2(2, 1)


_stdout = 1


def _send_to_parent(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(_stdout, data) :]
