"""A child process that exchanges JSON lines with this one, within limits of time and output.

Children run code that this process must not load (torch, spaCy), and decoders of untrusted files, which may
crash. A child never outlives its parent: `backend.processes.parent` ends it when its standard input closes,
and limits its memory and processor time. `preexec_fn` is not safe in a process with threads, and
PR_SET_PDEATHSIG fires when the thread ends that started the child.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from backend.domain.dataset import is_too_deep
from backend.processes.lines import READ_BYTES, LineBuffer, encode
from backend.processes.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import IO, Self

MAX_LINE_BYTES = 16 << 20
EXIT_SECONDS = 5.0
"""Time between the end of a child's output and its exit, after which it is killed."""


class ChildError(RuntimeError):
    """A child process gave no valid message."""


class ChildTimeout(ChildError):
    """The child wrote no message in time."""


class ChildExited(ChildError):
    """The child ended before it wrote a message. `status` is as in `Child.status`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process ended with code {status}")
        self.status = status


class InvalidOutput(ChildError):
    """The child wrote something else than a line of JSON, or a line that is too long."""


def module_command(module: str, *arguments: str | Path) -> list[str]:
    """Command line that runs a Python module in a child process."""
    return [sys.executable, "-m", module, *map(str, arguments)]


class Child:
    """A running child process. Leaving the context kills it, unless it has ended, and reaps it.

    `seconds` limits its life; it is killed then, so that no call on it blocks for longer. Standard error is
    discarded unless `errors` is a file, or None to share this process's. `output=subprocess.DEVNULL` is for
    children that are not listened to. `environment` is added to this process's variables.

    One thread may send while another one receives.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        seconds: float | None = None,
        errors: IO[bytes] | int | None = subprocess.DEVNULL,
        output: int = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )
        self._max_line_bytes = max_line_bytes
        self._lines = LineBuffer()
        self._is_timed_out = False
        self._timer = None if seconds is None else self._start_timer(seconds)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit code, or the negated number of a signal; None while the child runs."""
        return self._process.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def send(self, *messages: Any) -> None:
        """Write one line for each message. Errors: `ChildTimeout`, `ChildExited`."""
        try:
            for message in messages:
                self._input.write(encode(message))
            self._input.flush()
        except BrokenPipeError:
            raise self._exited() from None

    def receive(self, seconds: float | None = None) -> Any:
        """The child's next message. Waits at most `seconds`, and never longer than the child lives.

        Errors: `ChildTimeout`, after which one may receive again if the child is alive; `ChildExited`;
        `InvalidOutput`.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while (line := self._lines.pop()) is None:
            if self._lines.num_pending > self._max_line_bytes:
                raise InvalidOutput(f"the process wrote a line of more than {self._max_line_bytes} bytes")
            if deadline is not None and not self._is_readable(deadline - time.monotonic()):
                raise ChildTimeout(f"no message within {seconds:g} seconds")
            chunk = self._read()
            if not chunk:
                raise self._exited()
            self._lines.add(chunk)
        return _parse(line)

    def chunks(self) -> Iterator[bytes]:
        """The child's output, for children that write no messages. The caller limits how much it reads."""
        while chunk := self._read():
            yield chunk

    def wait(self) -> int:
        """The exit code of a child whose output has ended; one that stays is killed."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(EXIT_SECONDS)
        self.kill()
        return self._process.wait()

    def kill(self) -> None:
        """End the child at once. A thread that receives from it gets `ChildExited`."""
        self._process.kill()

    def end(self, grace_seconds: float = 0.0) -> None:
        """Close the child's input, which asks it to end, and kill it after `grace_seconds`; then reap it.

        No other thread may use the child any more.
        """
        if self._timer is not None:
            self._timer.cancel()
        if not grace_seconds:
            self.kill()
        with suppress(BrokenPipeError):  # closing flushes what the child did not read
            self._input.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_seconds or None)
        self.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def _input(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdin)

    @property
    def _output(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdout)

    def _start_timer(self, seconds: float) -> threading.Timer:
        def expire() -> None:
            self._is_timed_out = True
            self.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        start_thread(timer)
        return timer

    def _read(self) -> bytes:
        return os.read(self._output.fileno(), READ_BYTES)

    def _is_readable(self, seconds: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            return bool(selector.select(max(seconds, 0.0)))

    def _exited(self) -> ChildError:
        status = self.wait()
        if self._is_timed_out:
            return ChildTimeout("the process took too long and was killed")
        return ChildExited(status)


def _parse(line: bytes) -> Any:
    try:
        text = line.decode()
        if is_too_deep(text):
            raise InvalidOutput("the process wrote JSON that nests too deep")
        return json.loads(text)
    except ValueError as error:
        raise InvalidOutput("the process wrote a line that is no JSON") from error
