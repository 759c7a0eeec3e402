"""A real engine process for tests."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import TYPE_CHECKING

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
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.socket_path)) == 0:
                    return
            assert self.process.poll() is None, "the engine ended before it was ready"
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """End the engine by closing its standard input, by which it detects that its parent ended."""
        self.process.communicate(timeout=60)
