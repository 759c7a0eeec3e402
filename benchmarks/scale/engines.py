"""Engine processes on this machine, and clients that count what they ask of them."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from benchmarks.engine import machine
from benchmarks.engine.adapters import num_weight_bytes
from benchmarks.processes import await_listeners, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from inference.protocol import Chunk, Generate


class Engine(EngineClient):
    """A client of an engine process. `running`: its requests, and whether each has got a token."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        super().__init__(socket)
        self.process = process
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
        return machine.Usage.now(self.process.pid).process_seconds


class RoundRobin:
    """The baseline: each request goes to the next engine, without regard to its adapter."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._turns = itertools.cycle(engines)

    def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        return next(self._turns).generate(request)


@contextlib.contextmanager
def processes(
    number: int, model: Path, resident: int
) -> Iterator[list[tuple[subprocess.Popen[bytes], Path]]]:
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
            engine = EngineProcess(socket, model, num_threads=1, options=options, ends_with_stdin=False)
            process = running(engine.arguments(), engine.environment())
            found.append((stack.enter_context(process), socket))
        await_listeners([process for process, _ in found], [socket for _, socket in found])
        yield found
