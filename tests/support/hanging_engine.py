"""An engine process that hangs at its first request, in the place that the variable HANG names."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

from inference.engine import Engine
from inference.server.__main__ import main
from inference.server.session import Session


def deadlock(*_: object) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def hang_with_the_lock_of_the_interpreter(*_: object) -> None:
    ctypes.PyDLL(None).pause()


PLACES = {
    "step": (Engine, "step", deadlock),
    "native code": (Engine, "step", hang_with_the_lock_of_the_interpreter),
    "event loop": (Session, "_accept", deadlock),
}

if __name__ == "__main__":
    setattr(*PLACES[os.environ["HANG"]])
    sys.exit(main())
