"""Supervises child processes: starts them together, restarts those that exit, stops the newest first."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from backend.domain.errors import Unavailable
from backend.processes.parent import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_POLL_SECONDS = 0.05
_HEALTHY_SECONDS = 30.0
"""A child that ran at least this long is restarted at once; others are restarted with backoff."""


@dataclass(frozen=True, slots=True)
class Service:
    """A child process: `argv` is run with `env` added to this process's environment, and `is_ready` is polled
    until it returns True.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[], bool] = lambda: True
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    """Time from `stop_signal` to SIGKILL."""
    ready_seconds: float = 120.0
    """Those of services that start together add up, because they share the processors."""
    silence: Callable[[], float] = lambda: 0.0
    """Seconds for which the running child has not responded; must not block."""
    hang_seconds: float = 60.0
    """A child that is silent for longer is killed and restarted."""


class NotReady(Unavailable):
    """A service did not become ready; its log shows the reason."""


@dataclass
class _Child:
    service: Service
    process: subprocess.Popen[bytes]
    started_at: float
    failures: int = 0
    restart_at: float | None = None


class Supervisor:
    """Owns the child processes. As a context manager, stops all of them on exit, newest first."""

    def __init__(self, logs: Path, on_event: Callable[[str], None] = lambda _text: None) -> None:
        self._logs = logs
        self._on_event = on_event
        self._children: dict[str, _Child] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self, *services: Service, stop: threading.Event | None = None) -> None:
        """Start all `services` at once, and wait until each has been ready. Returns early once `stop` is set.

        Errors: `NotReady` for the first that exits before it is ready, or is not ready in time. The others
        keep running.
        """
        stop = stop or threading.Event()
        deadline = time.monotonic() + sum(service.ready_seconds for service in services)
        for service in services:
            self._children[service.name] = _Child(service, self._spawn(service), time.monotonic())
        waiting = [self._children[service.name] for service in services]
        while waiting := [child for child in waiting if not self._is_ready(child, deadline)]:
            if stop.wait(_POLL_SECONDS):
                return

    def _is_ready(self, child: _Child, deadline: float) -> bool:
        """Errors: `NotReady` if the child cannot become ready any more."""
        is_ready = child.service.is_ready()
        has_exited = child.process.poll() is not None
        if has_exited or (not is_ready and time.monotonic() > deadline):
            name, log = child.service.name, self.log_of(child.service.name)
            raise NotReady(f"{name} did not become ready; {log} ends with:\n{_tail(log)}")
        return is_ready

    def is_running(self, name: str) -> bool:
        return name in self._children and self._children[name].process.poll() is None

    def watch_once(self) -> None:
        """Restart exited children, with exponential backoff up to 30 s for those that keep exiting early."""
        now = time.monotonic()
        for child in self._children.values():
            if child.process.poll() is None:
                self._end_hung(child)
                continue
            if child.restart_at is None:
                lived = now - child.started_at
                child.failures = 0 if lived > _HEALTHY_SECONDS else child.failures + 1
                child.restart_at = now + (
                    min(30.0, 0.5 * 2 ** (child.failures - 1)) if child.failures else 0.0
                )
                self._on_event(f"{child.service.name}: exited with {child.process.returncode}; restarting")
            elif now >= child.restart_at:
                _close_stdin(child.process)
                child.process, child.started_at, child.restart_at = self._spawn(child.service), now, None

    def _end_hung(self, child: _Child) -> None:
        if child.service.silence() > child.service.hang_seconds:
            self._on_event(f"{child.service.name}: does not respond; killing it")
            os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()

    def pids(self) -> dict[str, int]:
        return {name: child.process.pid for name, child in self._children.items()}

    def log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def stop(self) -> None:
        for child in reversed(self._children.values()):
            _end(child.process, child.service)
        self._children.clear()

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        with self.log_of(service.name).open("ab") as log:
            return subprocess.Popen(
                service.argv,
                env=os.environ | service.env,
                stdin=subprocess.PIPE,  # the kernel closes it however this process ends
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach the children: they are stopped in order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - this process has no threads
            )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _end(process: subprocess.Popen[bytes], service: Service) -> None:
    if process.poll() is None:
        process.send_signal(service.stop_signal)
        try:
            process.wait(service.stop_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    _close_stdin(process)


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
