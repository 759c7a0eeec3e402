"""A wall clock that can be wrong, for programs that are started with `WallClock.environment`."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = Path(__file__).with_name("clock.cpp")
_OFFSET = struct.Struct("=q")


class WallClock:
    """Right until `move`. Linux only; needs a C++ compiler (`CXX`, or g++)."""

    def __init__(self, folder: Path) -> None:
        """Build the library in `folder`. Errors: `CalledProcessError`."""
        library, self._file = folder / "clock.so", folder / "clock"
        compiler = os.environ.get("CXX") or "g++"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        self._file.write_bytes(_OFFSET.pack(0))
        with self._file.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), _OFFSET.size)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}

    def move(self, seconds: int) -> None:
        """Set the clock this far ahead of the right time (behind, if negative), for running programs too."""
        self._offset[:] = _OFFSET.pack(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._offset.close()
