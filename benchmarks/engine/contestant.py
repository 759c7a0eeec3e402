"""Contestants: child processes that run workloads on request and sleep otherwise.

Parent and child exchange lines of JSON over the child's standard input and output (`benchmarks.engine.peer`).
Other output of the child and its libraries goes to its log.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from backend.processes.child import Child, ChildError, ChildExited
from benchmarks.engine.machine import Usage
from benchmarks.engine.measure import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
SETTLE_SECONDS = 0.5
"""Pause before a run: threads of the contestant that ran before spin on after their last product (Intel's
OpenMP for 200 ms, KMP_BLOCKTIME), which would take processor time from a short run.
"""
EXIT_SECONDS = 30.0


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
    """A context manager that stops the process."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the process and wait for its first message. Raises `ContestantError`."""
        self.name = name
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            variables = {"PYTHONPATH": str(ROOT), **(environment or {})}
            self._child = Child(command, errors=errors, environment=variables)
        self.settings: dict[str, Any] = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, task: str, workload: Any) -> Run:
        """Run `task` on a workload dataclass in the child. Raises `ContestantError`."""
        time.sleep(SETTLE_SECONDS)
        before = Usage.now(self._child.pid)
        with self._errors():
            self._child.send({"task": task, "workload": asdict(workload)})
        measurement = Measurement(**self._answer())
        after = Usage.now(self._child.pid)
        return Run(measurement, after.other_share_since(before), after.disk_bytes - before.disk_bytes)

    def close(self) -> None:
        """Close standard input and wait for the exit; kill the process after `EXIT_SECONDS`."""
        self._child.end(EXIT_SECONDS)

    def _answer(self) -> dict[str, Any]:
        with self._errors():
            answer: dict[str, Any] = self._child.receive()
            if "error" in answer:
                raise ChildError(answer["error"])
        return answer

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ChildError as error:
            self.close()
            text = f"exited with status {error.status}" if isinstance(error, ChildExited) else str(error)
            raise ContestantError(f"{self.name}: {text}; its log is {self._log}") from error
