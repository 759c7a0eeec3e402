"""A real engine process for tests."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from benchmarks.processes import await_listeners

if TYPE_CHECKING:
    from pathlib import Path

    from backend.engine.process import EngineProcess


class RunningEngine:
    """An engine process, started at once; `wait_until_ready` returns when it accepts connections."""

    def __init__(self, spec: EngineProcess) -> None:
        self.socket_path: Path = spec.socket_path
        self.process = subprocess.Popen(
            spec.arguments(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=spec.environment()
        )

    def wait_until_ready(self) -> None:
        await_listeners([self.process], [self.socket_path])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """End the engine by closing its standard input, by which it detects that its parent ended."""
        self.process.communicate(timeout=60)
