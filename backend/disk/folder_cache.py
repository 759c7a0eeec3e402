"""Folders that can be fetched or written again, with the time of their last use, which their own modification
time records to within `RECORD_SECONDS`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from backend.disk.locks import locked

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

DELETED = ".deleted."
"""Names of folders that are being deleted begin so."""
DRAFT_SECONDS = 3600.0
"""More than the writing or the deletion of a folder takes."""
RECORD_SECONDS = 10.0
"""A use within so long of a recorded one is not recorded: each record opens, locks and closes a file."""
MAX_PATHS = 4096
"""Paths that are kept. To build and to hash the path of an answer's adapter costs more than its status."""


@dataclass(frozen=True, slots=True)
class CachedFolder:
    """`used_at`: Unix time of its last use, or up to `RECORD_SECONDS` later."""

    used_at: float
    path: Path

    @property
    def num_bytes(self) -> int:
        """Of its files."""
        total = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                with suppress(FileNotFoundError):
                    total += Path(folder, name).stat().st_size
        return total

    def read(self, name: str) -> bytes:
        """Content of a file; empty if it cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except OSError:
            return b""


class FolderCache:
    """Folders in `root`, which other processes use too. A folder is there as a whole or not at all, if those
    who write one rename it to its name. Names with a leading dot are of drafts and of what is being deleted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._path = lru_cache(MAX_PATHS)(root.__truediv__)

    def use(self, name: str) -> Path | None:
        """The folder, of which this is a use; None if it is not there."""
        path = self._path(name)
        try:
            recorded_at = path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        if 0 <= time.time() - recorded_at < RECORD_SECONDS:
            return path  # `_used_at` counts this use
        with self._lock(fcntl.LOCK_SH):
            try:
                os.utime(path)
            except FileNotFoundError:
                return None
        return path

    def least_recent(self, before: float) -> list[CachedFolder]:
        """The folders that were last used before this Unix time, least recently used first."""
        found = []
        for path in self.root.iterdir() if self.root.is_dir() else ():
            with suppress(FileNotFoundError):
                if path.is_dir() and path.name[0] != "." and (used_at := _used_at(path)) < before:
                    found.append(CachedFolder(used_at, path))
        return sorted(found, key=lambda each: each.used_at)

    def drop(self, name: str, unused_since: float = inf) -> None:
        """Delete the folder, unless it was used since this Unix time."""
        path = self.root / name
        if not path.is_dir():
            return
        with self._lock(fcntl.LOCK_EX):
            if not path.is_dir() or _used_at(path) >= unused_since:
                return
            # At once: a process that ends now leaves no part of a folder to serve. Onto a name that is free,
            # because a full disk has no room for a new folder.
            deleted = path.rename(self.root / f"{DELETED}{secrets.token_hex(8)}")
        shutil.rmtree(deleted, ignore_errors=True)

    def sweep(self, drafts: str) -> None:
        """Delete what interrupted deletions left, and interrupted writes: folders named like `drafts`."""
        for path in (*self.root.glob(f"{DELETED}*/"), *self.root.glob(f"{drafts}/")):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - DRAFT_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    def _lock(self, mode: int) -> AbstractContextManager[None]:
        """Shared for uses, exclusive for the decision that a folder goes."""
        return locked(self.root / ".lock", mode)


def _used_at(folder: Path) -> float:
    """No use of the folder is later."""
    return folder.stat().st_mtime + RECORD_SECONDS


def keep_in_use(folder: Path) -> None:
    """To be called again and again while a folder of a cache is in use for long."""
    with suppress(FileNotFoundError):
        os.utime(folder)
