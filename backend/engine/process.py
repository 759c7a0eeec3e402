"""Command line and environment of an engine process.

One supervisor owns the process: `loraledger up`, or the operator's own around `loraledger engine`. It starts,
restarts and ends the engine. API processes are clients only, so that a crash of one does not end the engine
for the others. A lock next to the socket prevents a second engine.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SPIN_COUNT = "2000"  # libgomp (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html)


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """Configuration of an engine process. `options` become command-line options of `inference.server`, such
    as `{"dtype": "float32", "batch_invariant": True}`. With `ends_with_stdin` the engine ends when its
    standard input closes, which also happens when its parent process crashes.
    """

    socket_path: Path
    model: str | Path | None = None  # as `inference.model.sources.resolve_model` takes it
    model_cache: Path | None = None
    num_threads: int = 2
    options: Mapping[str, str | float] = field(default_factory=dict)
    ends_with_stdin: bool = True
    module: str = "inference.server"
    """Module of the command line; another one has the same options."""

    def arguments(self) -> list[str]:
        command = [sys.executable, "-m", self.module]
        if self.ends_with_stdin:
            command.append("--exit-with-stdin")
        named = {
            "socket": self.socket_path,
            "model": self.model,
            "model_cache": self.model_cache,
            "num_threads": self.num_threads,
            **self.options,
        }
        for name, value in named.items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                command.append(option)
            elif value is not None:
                command += [option, str(value)]
        return command

    def environment(self) -> dict[str, str]:
        """Environment variables that torch reads when it is imported."""
        return {**waiting_policy(), **os.environ, "OMP_NUM_THREADS": str(self.num_threads)}


def waiting_policy() -> dict[str, str]:
    """Environment variables for how OpenMP threads wait; none if OMP_WAIT_POLICY is set.

    Threads spin for some microseconds, then sleep. Measured against threads that sleep at once, this is 1.18
    times as fast on dedicated cores and equally fast on busy ones. With libgomp's default spin count an
    engine on busy cores takes six times as long.
    """
    return {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": _SPIN_COUNT}
