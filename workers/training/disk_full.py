"""Telling that the disk is full, whoever found out. Loads no torch."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

from backend.domain.errors import DiskFull
from workers.training.spec import CHECKPOINTS, COMPLETE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
LEAST_BYTES = 1 << 20


def as_disk_full(error: BaseException, folder: Path) -> DiskFull | None:
    """What to say of a job in `folder` that died of `error`; None if of something else.

    Libraries that write in C++ or Rust have errors of their own, which say at most the system's words.
    """
    if not any(map(_is_no_room, _chain(error))) and _free_bytes(folder) >= LEAST_BYTES:
        return None
    kept = [int(path.parent.name.rpartition("-")[2]) for path in _whole_checkpoints(folder)]
    what = f"the checkpoint of step {max(kept)} is kept" if kept else "it had no checkpoint yet"
    message = f"the worker's disk is full: make room, and start the job again; {what}"
    return DiskFull(message, details={"step": max(kept)} if kept else {})


def _free_bytes(folder: Path) -> int:
    here = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(here).free


def _whole_checkpoints(folder: Path) -> list[Path]:
    return list((folder / CHECKPOINTS).glob(f"checkpoint-*/{COMPLETE}"))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_no_room(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    return "no space left on device" in str(error).lower()
