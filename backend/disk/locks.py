"""Advisory locks of files, which hold between processes and end with them."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def locked(path: Path, mode: int) -> Iterator[None]:
    """Hold a lock of the file, which is created. `mode` is that of `fcntl.flock`.

    Errors: `BlockingIOError` with `LOCK_NB` if another holder excludes it.
    """
    with path.open("ab") as file:
        fcntl.flock(file, mode)
        yield
