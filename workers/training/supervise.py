"""The worker's side of the training process: start it, hear it, end it. Loads no torch."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import IO

LOG_FILE = "log.txt"
POLL_SECONDS = 0.5


class TrainingCrashed(RuntimeError):
    """The process died or went silent; what it said last is in the job's log."""


@dataclass(frozen=True, slots=True)
class Message:
    """One line of the process: `kind` is `done`, `failed`, or an event for the job's record."""

    kind: str
    data: Mapping[str, Any]


def training_command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "workers.training.run", "--job", str(folder)]


def supervise(
    command: Sequence[str],
    folder: Path,
    is_wanted: Callable[[], bool],
    on_event: Callable[[Message], None],
    silence_seconds: float = 900.0,
) -> Message | None:
    """Run the process to its last message, which is returned; None once it is not wanted any more.

    Whatever happens, the process is gone afterwards. Errors: `TrainingCrashed`, and what `on_event` raises.
    """
    with _running(command, folder / LOG_FILE) as process, selectors.DefaultSelector() as selector:
        output = process.stdout
        assert output is not None  # noqa: S101 - a pipe was asked for
        selector.register(output, selectors.EVENT_READ)
        heard_at = time.monotonic()
        pending = b""
        while is_wanted():
            if not selector.select(POLL_SECONDS):
                if time.monotonic() - heard_at > silence_seconds:
                    raise TrainingCrashed(f"no sign of life for {silence_seconds:.0f} seconds")
                continue
            heard_at = time.monotonic()
            chunk = output.read1(1 << 16)  # type: ignore[attr-defined]  # a BufferedReader, as `bufsize` is -1
            if not chunk:
                raise TrainingCrashed(f"the process ended with code {process.wait()} before it was done")
            *lines, pending = (pending + chunk).split(b"\n")
            for message in map(_parse, lines):
                if message.kind in {"done", "failed"}:
                    return message
                on_event(message)
    return None


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Nothing is written to its standard input: when we die, that pipe closes, and the process ends."""
    with log.open("ab") as errors, _popen(command, errors) as process:
        try:
            yield process
        finally:
            process.kill()  # checkpoints appear whole or not at all, so nothing is worth waiting for


def _popen(command: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)


def _parse(line: bytes) -> Message:
    raw = json.loads(line)
    return Message(raw["kind"], raw["data"])
