"""Ends an engine process that hangs, so that its supervisor starts it again.

Docker, Kubernetes and systemd restart processes that end, and notice nothing of one that only hangs. A
process that the system has stopped (SIGSTOP) runs no watchdog either; only a supervisor that asks it from
outside notices that.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from inference.server.heartbeat import Heartbeat

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

EXIT_HUNG = 70
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5.0


def start(socket_path: Path, seconds: float) -> None:
    """End this process with `EXIT_HUNG` once its engine, which serves `socket_path`, has owed an answer about
    its status for `seconds`: neither a step nor the event loop went on. Where it hangs is written to standard
    error.
    """
    thread = threading.Thread(
        target=_watch, args=(Heartbeat(socket_path), seconds), name="watchdog", daemon=True
    )
    thread.start()


def _watch(heartbeat: Heartbeat, seconds: float) -> None:
    while (silence := heartbeat.silence()) <= seconds:
        if not silence:
            # A timer without the interpreter's lock, for native code that hangs with the lock: this thread
            # does not run then. It ends the process with code 1.
            faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True)
        time.sleep(_POLL_SECONDS)
    logger.critical(
        "the engine has not responded for %.0f s: this process ends, to be started again. If its steps only "
        "take long, raise --stall-seconds (LORALEDGER_ENGINE_STALL_SECONDS)",
        seconds,
    )
    faulthandler.dump_traceback()
    os._exit(EXIT_HUNG)
