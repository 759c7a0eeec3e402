"""The parent of this process, where it is a `backend.processes.child`, and the limits that it sets itself."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from backend.processes.lines import READ_BYTES, LineBuffer, encode

if TYPE_CHECKING:
    from typing import BinaryIO

EXIT_ORPHANED = 75
_PR_SET_PDEATHSIG = 1
_STATM_DATA = 5  # pages of data and stack, in proc(5)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, such as at a limit of `Parent`. Errors of torch are no `MemoryError`."""
    signs = ("can't allocate memory", "bad_alloc", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def die_with_parent() -> None:
    """Ask the kernel (Linux only) to kill this child when its parent exits, so that even a `kill -9` of the
    parent leaves no orphan on the ports. To be called in the child before exec.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Parent:
    """The parent process.

    Messages arrive on standard input and leave on standard output; what libraries print goes to standard
    error. The input ends when the parent has ended or needs the child no more. Then this process exits at
    once, regardless of other threads; only native code that holds the interpreter's lock delays that.
    """

    def __init__(self, *, memory_bytes: int | None = None, cpu_seconds: int | None = None) -> None:
        """Create one per process, before it reads untrusted data.

        Private memory beyond `memory_bytes` raises `MemoryError`. More processor time than `cpu_seconds`
        kills the process. None means the parent's limit.
        """
        self.output: BinaryIO = os.fdopen(os.dup(sys.stdout.fileno()), "wb", READ_BYTES)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._messages: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._read, name="parent", daemon=True).start()
        _set_limit(resource.RLIMIT_DATA, memory_bytes)
        _set_limit(resource.RLIMIT_CPU, cpu_seconds)

    def limit_further_memory(self, num_bytes: int) -> None:
        """From now on, `num_bytes` more private memory than the process has raise `MemoryError`. For children
        that load libraries of unknown size before they read untrusted data.
        """
        pages = int(Path("/proc/self/statm").read_text().split()[_STATM_DATA])
        _set_limit(resource.RLIMIT_DATA, pages * resource.getpagesize() + num_bytes)

    def receive(self) -> Any:
        """The parent's next message. Waits for it."""
        return json.loads(self._messages.get())

    def send(self, *messages: Any) -> None:
        """Write one line for each message."""
        for message in messages:
            self.output.write(encode(message))
        self.output.flush()

    def _read(self) -> None:
        lines = LineBuffer()
        try:
            # Not through `sys.stdin`: a thread that waits in its buffer blocks the interpreter's shutdown.
            while chunk := os.read(sys.stdin.fileno(), READ_BYTES):
                lines.add(chunk)
                while (line := lines.pop()) is not None:
                    self._messages.put(line)
        finally:  # after an error too: `receive` would wait for messages that no thread reads
            os._exit(EXIT_ORPHANED)


def _set_limit(which: int, value: int | None) -> None:
    if value is None:
        return
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        value = min(value, most)  # no process may raise its limit
    resource.setrlimit(which, (value, value))
