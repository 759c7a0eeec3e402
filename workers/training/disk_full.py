"""Recognises a full disk behind the errors of libraries. Loads no torch."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from backend.disk.space import FULL_ERRNOS
from backend.domain.errors import DiskFull
from workers.training.spec import CHECKPOINTS, COMPLETE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIN_FREE_BYTES = 1 << 20


def disk_full_error(error: BaseException, folder: Path) -> DiskFull | None:
    """The error to report for a job in `folder` that failed with `error`; None if the disk is not full.

    Libraries that write in C++ or Rust raise exceptions of their own, with the system's message at most. So
    little free space counts as a full disk too.
    """
    if not any(map(_is_disk_full, _chain(error))) and _free_bytes(folder) >= MIN_FREE_BYTES:
        return None
    steps = [int(path.parent.name.rpartition("-")[2]) for path in _complete_checkpoints(folder)]
    checkpoint = f"the checkpoint of step {max(steps)} is kept" if steps else "it had no checkpoint yet"
    return DiskFull(f"the worker's disk is full, and its operator must free space; {checkpoint}")


def _free_bytes(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _complete_checkpoints(folder: Path) -> list[Path]:
    return list((folder / CHECKPOINTS).glob(f"checkpoint-*/{COMPLETE}"))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL_ERRNOS:
        return True
    return "no space left on device" in str(error).lower()
