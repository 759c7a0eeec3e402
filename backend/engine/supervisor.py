"""Keeps one engine process running: starts it, waits until it serves, starts it again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """How to start the engine. `options` become command-line options of `inference.server`, such as
    `{"dtype": "float32", "num_threads": 1}`.
    """

    socket_path: Path
    model: Path | None = None
    model_cache: Path | None = None
    num_threads: int = 2
    log_path: Path | None = None
    options: Mapping[str, str | int] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        command = [sys.executable, "-m", "inference.server", "--exit-with-stdin"]
        named = {
            "socket": self.socket_path,
            "model": self.model,
            "model_cache": self.model_cache,
            "num_threads": self.num_threads,
            **self.options,
        }
        for name, value in named.items():
            if value is not None:
                command += [f"--{name.replace('_', '-')}", str(value)]
        return command

    def environment(self) -> dict[str, str]:
        """What torch reads when it is loaded, before any option.

        Waiting threads sleep instead of spinning: beside other busy processes on the same cores, spinning was
        measured to cost nine tenths of the throughput. Set OMP_WAIT_POLICY=ACTIVE on a machine of its own.
        """
        return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": str(self.num_threads)}


class EngineSupervisor:
    """`async with EngineSupervisor(EngineProcess(path)) as engine: await engine.wait_ready()`

    A crash is followed by a restart, after a pause that doubles while the process dies before it serves.
    The process holds our end of a pipe as standard input, so it ends with us even if we are killed.
    """

    def __init__(self, process: EngineProcess, first_pause_seconds: float = 0.5) -> None:
        self._spec = process
        self._first_pause = first_pause_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self.num_restarts = 0

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._supervise())

    async def wait_ready(self, timeout_seconds: float = 120.0) -> None:
        """Until the engine accepts connections. Raises `Unavailable` after `timeout_seconds`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._ready.wait()
        except TimeoutError as error:
            raise Unavailable(
                f"the inference engine was not ready after {timeout_seconds:.0f} s",
                details={"log": self._log()},
            ) from error

    async def stop(self) -> None:
        """End the process: politely, then by force. No restart follows."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._process is not None:
            await _end(self._process)
            self._process = None
        self._ready.clear()

    async def _supervise(self) -> None:
        pause = self._first_pause
        while True:
            was_ready, code = await self._run_once()
            pause = self._first_pause if was_ready else min(2 * pause, _MAX_PAUSE_SECONDS)
            logger.error("engine process ended with code %s; restart in %.1f s", code, pause)
            await asyncio.sleep(pause)
            self.num_restarts += 1

    async def _run_once(self) -> tuple[bool, int]:
        """Start the process and wait for its end: whether it ever served, and its exit code."""
        with contextlib.ExitStack() as files:
            output = None
            if self._spec.log_path is not None:
                self._spec.log_path.parent.mkdir(parents=True, exist_ok=True)
                output = files.enter_context(self._spec.log_path.open("ab"))
            self._process = await asyncio.create_subprocess_exec(
                *self._spec.arguments(),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._spec.environment(),
                start_new_session=True,  # Ctrl-C in a terminal is for us; we end the engine in our own order
            )
        watcher = asyncio.create_task(self._watch_readiness())
        try:
            code = await self._process.wait()
        finally:
            watcher.cancel()
        was_ready = self._ready.is_set()
        self._ready.clear()
        return was_ready, code

    async def _watch_readiness(self) -> None:
        while not self._ready.is_set():
            if await _accepts(self._spec.socket_path):
                self._ready.set()
            else:
                await asyncio.sleep(_POLL_SECONDS)

    def _log(self) -> str:
        return "" if self._spec.log_path is None else str(self._spec.log_path)


async def _accepts(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


async def _end(process: asyncio.subprocess.Process, patience_seconds: float = 10.0) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(patience_seconds):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
