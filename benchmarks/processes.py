"""Processes that benchmarks start. They end with the benchmark, even if that is killed."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from backend.domain.errors import Unavailable
from backend.processes.parent import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

START_SECONDS = 180.0


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


def await_listeners(addresses: Iterable[int | Path], log: Path) -> None:
    """Wait until each address, a port of 127.0.0.1 or a Unix socket, accepts connections.

    Errors: `Unavailable` with the text of `log` after `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    for address in addresses:
        while not _accepts(address):
            if time.monotonic() > deadline:
                raise Unavailable(log.read_text() or f"nothing listens on {address}")
            time.sleep(0.1)


def _accepts(address: int | Path) -> bool:
    is_path = isinstance(address, Path)
    with socket.socket(socket.AF_UNIX if is_path else socket.AF_INET) as probe:
        return probe.connect_ex(str(address) if is_path else ("127.0.0.1", address)) == 0
