"""Processes that benchmarks start. They end with the benchmark, even if that is killed."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from backend.processes.parent import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen` with these options, of a process that the kernel (Linux only) kills when the thread
    ends that calls this: call it in the main thread.
    """
    return subprocess.Popen(command, preexec_fn=die_with_parent, **options)  # noqa: PLW1509 - one system call


@contextmanager
def running(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> Iterator[int]:
    """Run a process for the block: its id. `environment` is added to this process's variables; all output
    goes to `log`.
    """
    process = start(command, env=os.environ | environment, stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
