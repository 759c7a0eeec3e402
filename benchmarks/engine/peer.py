"""The child's side of a contestant (`benchmarks.engine.contestant`).

Standard library only, and nothing of the backend, which needs packages: peers import this module in their own
environments.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.engine.measure import Measurement

_PR_SET_PDEATHSIG = 1


def serve(settings: Mapping[str, Any], tasks: Mapping[str, Callable[..., Measurement]]) -> None:
    """Send `settings`, then run tasks until standard input closes. Call `reserve_stdout` before anything that
    may print.
    """
    _send_to_parent({**settings, "started_after_seconds": time.process_time()})
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = asdict(tasks[command["task"]](**command["workload"]))
        except Exception as error:
            _send_to_parent({"error": f"{command['task']} failed: {error!r}"})
            raise
        _send_to_parent(answer)


def reserve_stdout() -> None:
    """Reserve standard output for messages to the parent; redirect prints to standard error. From now on this
    process ends with its parent, even during a task.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    global _stdout  # noqa: PLW0603 - one process has one standard output
    _stdout = os.dup(1)
    os.dup2(2, 1)


_stdout = 1


def _send_to_parent(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(_stdout, data) :]
