"""A contestant is a process that runs workloads when told to and sleeps otherwise.

Parent and child exchange lines of JSON over the child's standard input and output. Whatever else the child or
its libraries print goes to its log. Standard library only: peers import this in their own environments.
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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]


class ContestantError(Exception):
    """A contestant failed or ended; the message says where its log is."""


@dataclass(frozen=True, slots=True)
class Run:
    """A measurement; the share of the machine's CPU time that others took or that went to the host; and what
    was read from disks.
    """

    measurement: Measurement
    foreign_cpu: float
    disk_bytes: int


class Contestant:
    """The parent's side. A context manager: the process ends with it."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the process and wait until it is ready. Raises `ContestantError`."""
        self.name = name
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [*command],
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
        """Have the child run `task` on a workload dataclass. Raises `ContestantError`."""
        before = Usage.now(self._process.pid)
        self._send({"task": task, "workload": asdict(workload)})
        measurement = Measurement(**self._answer())
        after = Usage.now(self._process.pid)
        return Run(measurement, after.foreign_share_since(before), after.disk_bytes - before.disk_bytes)

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
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
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._error("ended early") from error

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise self._error(f"ended with status {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._error(answer["error"])
        return answer

    def _error(self, text: str) -> ContestantError:
        return ContestantError(f"{self.name}: {text}; its log is {self._log}")


def serve(settings: Mapping[str, Any], tasks: Mapping[str, Callable[..., Measurement]]) -> None:
    """The child's side: announce `settings`, then run tasks until standard input closes.

    Call `claim_output` before anything that may print.
    """
    _say({**settings, "started_after_seconds": time.process_time()})
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = asdict(tasks[order["task"]](**order["workload"]))
        except Exception as error:
            _say({"error": f"{order['task']} failed: {error!r}"})
            raise
        _say(answer)


def claim_output() -> None:
    """Keep standard output for answers; from now on prints go to standard error."""
    global _answers  # noqa: PLW0603 - one process has one standard output
    _answers = os.dup(1)
    os.dup2(2, 1)


_answers = 1


def _say(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(_answers, data) :]
