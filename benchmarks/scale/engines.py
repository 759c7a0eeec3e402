"""Engine processes on this machine, and clients that count what they ask of them."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from backend.processes.child import Child
from benchmarks.engine import machine
from benchmarks.engine.adapters import num_weight_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from inference.protocol import Chunk, Generate

START_SECONDS = 300.0


class Engine(EngineClient):
    """A client of an engine process. `running`: its requests, and whether each has got a token."""

    def __init__(self, child: Child, socket: Path) -> None:
        super().__init__(socket)
        self.child = child
        self.running: dict[str, bool] = {}
        self.num_requests = 0

    async def generate(self, request: Generate) -> AsyncGenerator[Chunk, None]:
        self.num_requests += 1
        self.running[request.request_id] = False
        try:
            async with contextlib.aclosing(super().generate(request)) as chunks:
                async for chunk in chunks:
                    self.running[request.request_id] = True
                    yield chunk
        finally:
            del self.running[request.request_id]

    def cpu_seconds(self) -> float:
        """Of the process since its start, which must be running."""
        return machine.Usage.now(self.child.pid).process_seconds


class RoundRobin:
    """The baseline: each request goes to the next engine, without regard to its adapter."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._turns = itertools.cycle(engines)

    def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        return next(self._turns).generate(request)


@contextlib.contextmanager
def processes(number: int, model: Path, resident: int) -> Iterator[list[tuple[Child, Path]]]:
    """`number` engines with a thread and memory for `resident` adapters each, ready, with their sockets."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loraledger-")))
        found = []
        options: dict[str, str | int] = {
            "adapter_budget_bytes": int(1.1 * resident * num_weight_bytes(model)),
            "num_adapter_slots": resident,  # which hold copies, so that more would be in memory
            "kv_budget_bytes": 256 << 20,
        }
        for each in range(1, number + 1):
            socket = folder / f"{each}.sock"
            process = EngineProcess(socket, model, num_threads=1, options=options)
            child = Child(process.arguments(), environment=process.environment(), errors=None)
            found.append((stack.enter_context(child), socket))
        deadline = time.monotonic() + START_SECONDS
        while not all(socket.exists() for _, socket in found):
            ended = [child.status for child, _ in found if child.status is not None]
            if ended or time.monotonic() > deadline:
                reason = (
                    f"ended with status {ended[0]}" if ended else f"is not ready after {START_SECONDS:g} s"
                )
                raise RuntimeError(f"one of {number} engines {reason}; its log is above")
            time.sleep(0.1)
        yield found
