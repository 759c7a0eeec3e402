"""How an engine process is started.

One supervisor owns it, `loraledger up` or the operator's own around `loraledger engine`: it starts the
engine, starts it again when it dies, and ends it. API processes are its clients and nothing else, so that
none of them can take it from the others by dying. A lock beside the socket refuses a second engine there.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SPIN_COUNT = "2000"  # of libgomp's (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html)


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """How to start the engine. `options` become command-line options of `inference.server`, such as
    `{"dtype": "float32", "batch_invariant": True}`. With `ends_with_stdin` it ends when whoever holds the
    other end of its standard input does, however that happens.
    """

    socket_path: Path
    model: str | Path | None = None  # as `inference.model.sources.resolve_model` takes it
    model_cache: Path | None = None
    num_threads: int = 2
    options: Mapping[str, str | int] = field(default_factory=dict)
    ends_with_stdin: bool = True

    def arguments(self) -> list[str]:
        command = [sys.executable, "-m", "inference.server"]
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
        """What torch reads when it is loaded, before any option."""
        return {**waiting_policy(), **os.environ, "OMP_NUM_THREADS": str(self.num_threads)}


def waiting_policy() -> dict[str, str]:
    """Variables that say how threads of the engine wait for each other; none if OMP_WAIT_POLICY is set.

    They spin for some microseconds, then sleep. With cores of its own an engine was measured to answer 1.18
    times as fast as with threads that sleep at once, and as fast beside busy processes, where it took six
    times as long with as much spinning as libgomp's default.
    """
    return {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": _SPIN_COUNT}
