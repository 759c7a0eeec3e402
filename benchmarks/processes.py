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
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

START_SECONDS = 300.0
STDERR = 2


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen` with these options, of a process that the kernel (Linux only) kills when the thread
    ends that calls this: call it in the main thread.
    """
    return subprocess.Popen(command, preexec_fn=die_with_parent, **options)  # noqa: PLW1509 - one system call


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[Any]]:
    """Run a process for the block. `environment` is added to this process's variables; all output goes to
    `log`, or to this process's standard error.
    """
    output = STDERR if log is None else log
    process = start(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def variables(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment that gives a process these settings; it keeps the default of one that is None."""
    return {f"LORALEDGER_{name.upper()}": str(v) for name, v in settings.items() if v is not None}


def await_listeners(
    processes: Collection[subprocess.Popen[Any]], addresses: Iterable[int | Path], log: Path | None = None
) -> None:
    """Wait until each address, a port of 127.0.0.1 or a Unix socket, accepts connections.

    Errors: `Unavailable` with the text of `log`, once a process has ended and after `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    for address in addresses:
        while not _accepts(address):
            reasons = [
                f"{p.args!r} ended with status {p.returncode}" for p in processes if p.poll() is not None
            ]
            if time.monotonic() > deadline:
                reasons.append(f"nothing listens on {address} after {START_SECONDS:g} s")
            if reasons:
                raise Unavailable("\n".join([*reasons, log.read_text() if log else "its output is above"]))
            time.sleep(0.1)


def _accepts(address: int | Path) -> bool:
    is_path = isinstance(address, Path)
    with socket.socket(socket.AF_UNIX if is_path else socket.AF_INET) as probe:
        return probe.connect_ex(str(address) if is_path else ("127.0.0.1", address)) == 0
