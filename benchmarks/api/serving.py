"""APIs as run by `loraledger serve`, in front of a fake engine."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backend.loopback import free_port
from benchmarks import processes

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

    from backend.installation.installation import Installation


@dataclass(frozen=True, slots=True)
class Running:
    """Ports and process ids of APIs by name, and the process id of the engine."""

    ports: Mapping[str, int]
    pids: Mapping[str, int]
    engine: int


@contextmanager
def serving(
    installation: Installation,
    apis: Mapping[str, Mapping[str, object]],
    tokens_per_second: int,
    *,
    is_lockstep: bool = False,
) -> Iterator[Running]:
    """Run an engine, whose streams have `tokens_per_second`, all in one step if `is_lockstep`, and an API for
    each name, with its settings besides those of the installation.
    """
    settings = installation.settings
    settings.engine_socket.parent.mkdir(parents=True)
    ports = {name: free_port() for name in apis}
    common = {name: getattr(settings, name) for name in ("home", "database_url", "max_lag_seconds")}
    with ExitStack() as stack, (settings.home / "log").open("wb") as log:

        def start(module: str, *arguments: str, **own: object) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", module, *arguments]
            return stack.enter_context(processes.running(command, processes.variables(common | own), log))

        started = {
            name: start("backend.cli.main", "serve", api_port=ports[name], **own)
            for name, own in apis.items()
        }
        options = ["--lockstep"] if is_lockstep else []
        socket = settings.engine_socket
        engine = start("benchmarks.api.engine", str(socket), str(tokens_per_second), *options)
        processes.await_listeners([*started.values(), engine], [*ports.values(), socket], Path(log.name))
        yield Running(ports, {name: process.pid for name, process in started.items()}, engine.pid)
