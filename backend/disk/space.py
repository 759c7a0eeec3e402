"""Limits uploads and fetched content to the disk space beyond a reserve, which keeps the rest of the
installation running.
"""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Of the disk, of a quota, and of the most bytes that a file of this process may have."""
LEAST_FREE_BYTES = 256 << 20
"""Free space on the disk of `LORALEDGER_HOME` below which new work should be done elsewhere."""


@contextmanager
def raising_disk_full(message: str) -> Iterator[None]:
    """Errors: `DiskFull` with the message where a write fails because the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_ERRNOS:
            raise
        raise DiskFull(message) from error


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Space on the disk of `folder`, which need not exist yet: all but `reserved` bytes."""

    folder: Path
    reserved: int = 0

    @property
    def left(self) -> int:
        """Bytes; negative if less than the reserve is free."""
        return shutil.disk_usage(self._existing).free - self.reserved

    @property
    def total(self) -> int:
        """Bytes of the disk."""
        return shutil.disk_usage(self._existing).total

    def is_disk_of(self, folder: Path) -> bool:
        """Whether `folder`, which must exist, lies on the same disk."""
        return folder.stat().st_dev == self._existing.stat().st_dev

    @property
    def _existing(self) -> Path:
        return next(path for path in (self.folder, *self.folder.parents) if path.exists())

    def require(self, num_bytes: int = 0) -> None:
        """Errors: `DiskFull` if there is no space for so many bytes."""
        if self.left < num_bytes:
            raise DiskFull("the disk of this installation is nearly full; its operator must free space")

    def limit(self, stream: Iterable[bytes], *, is_copied: bool = False) -> Iterator[bytes]:
        """The stream, while there is space for it, and for a copy of it if `is_copied`. Errors: as of
        `require`.
        """
        num_copied = 0
        for chunk in stream:
            num_copied += len(chunk) if is_copied else 0
            self.require(len(chunk) + num_copied)
            yield chunk
