"""Runs the training process from a worker and forwards its events. Loads no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.disk.folder_cache import keep_in_use
from backend.processes.child import Child, ChildError, ChildTimeout, module_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

LOG_FILE = "log.txt"
POLL_SECONDS = 0.5
SILENCE_SECONDS = 900.0
"""Time without a message after which the process counts as hung. It sends one every
`workers.training.progress.INTERVAL_SECONDS`, however long a step takes.
"""


class TrainingCrashed(RuntimeError):
    """The process died or stopped sending messages; the job's log has its standard error."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the training process: `kind` is `done`, `failed`, or the kind of a job event."""

    kind: str
    data: Mapping[str, Any]


def training_command(folder: Path) -> list[str]:
    return module_command("workers.training.run", "--job", folder)


def supervise(
    command: Sequence[str],
    folder: Path,
    is_wanted: Callable[[], bool],
    on_event: Callable[[Message], None],
    silence_seconds: float = SILENCE_SECONDS,
    adapter_folder: Path | None = None,
) -> Message | None:
    """Run the process and return its last message; None once `is_wanted` returns false. `adapter_folder`: of
    the cache of adapters, where it stays while the process runs.

    The process has ended when this returns or raises. Errors: `TrainingCrashed`, and what `on_event` raises.
    """
    with (folder / LOG_FILE).open("ab") as errors, Child(command, errors=errors) as child:
        # Leaving the block kills the process. Checkpoints are written atomically, so it needs no time to end.
        received_at = time.monotonic()
        while is_wanted():
            if adapter_folder is not None:
                keep_in_use(adapter_folder)
            try:
                message = Message(**child.receive(POLL_SECONDS))
            except ChildTimeout:
                if time.monotonic() - received_at > silence_seconds:
                    raise TrainingCrashed(f"no sign of life for {silence_seconds:.0f} seconds") from None
                continue
            except ChildError as error:
                raise TrainingCrashed(f"{error} before training was done") from error
            received_at = time.monotonic()
            if message.kind in {"done", "failed"}:
                return message
            on_event(message)
    return None
