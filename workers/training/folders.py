"""The folders of jobs: who may write to one, and when it goes. Loads no torch."""

from __future__ import annotations

import fcntl
import logging
import shutil
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from backend.domain.errors import NotFound
from backend.services.train.transitions import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from backend.domain.training import TrainingJob

LOCK_FILE = "lock"
KEPT = timedelta(hours=1)
"""How long the folder of a job that is over stays, its log for who wonders why."""
log = logging.getLogger(__name__)


class Jobs(Protocol):
    def get(self, job_id: str, /) -> TrainingJob:
        """Errors: `NotFound`."""
        ...


@contextmanager
def alone(folder: Path, *, waits: bool = True) -> Iterator[None]:
    """Two processes never write to one job's folder, even while a killed worker's child is still dying.

    Errors: `BlockingIOError` if another process is in it and this one does not wait.
    """
    with (folder / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield


def sweep_folders(home: Path, jobs: Jobs, clock: Callable[[], datetime] = utc_now) -> int:
    """Remove the folders below `home` of jobs that have been over for long; how many.

    What they gave is in the block store by then. A folder in use stays until a later sweep, and one whose job
    is not among these is not ours to remove.
    """
    before = clock() - KEPT
    return sum(_remove(folder) for folder in home.glob("*-*") if _is_over(jobs, folder.name, before))


def _is_over(jobs: Jobs, job_id: str, before: datetime) -> bool:
    try:
        finished_at = jobs.get(job_id).finished_at
    except NotFound:
        return False
    return finished_at is not None and finished_at < before


def _remove(folder: Path) -> bool:
    try:
        with alone(folder, waits=False):
            shutil.rmtree(folder)
    except OSError as error:
        log.warning("%s stays for now: %s", folder, error)
        return False
    return True
