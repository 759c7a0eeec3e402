"""Names the folder of job folders, and locks and removes them. Loads no torch."""

from __future__ import annotations

import fcntl
import json
import logging
import secrets
import shutil
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from backend.domain.errors import NotFound
from backend.services.train.publication import READ_BACK
from backend.services.train.transitions import utc_now
from workers.training.spec import CHECKPOINTS, COMPLETE, draft_of, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from backend.domain.training import TrainingJob

LOCK_FILE = "lock"
ID_FILE = "id.json"
RETENTION = timedelta(hours=1)
"""How long the folder of a finished job is retained, so that its log can be read."""
log = logging.getLogger(__name__)


class Jobs(Protocol):
    def get(self, job_id: str, /) -> TrainingJob:
        """Errors: `NotFound`."""
        ...


def home_id(home: Path) -> str:
    """The id of the folder that has the job folders, drawn at its first use. Workers that share the folder
    find each other's results there, and have the same id.
    """
    file = home / ID_FILE
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        with lock_folder(home):
            if not file.exists():  # else another worker was first
                write_json(file, secrets.token_hex(8))
    found: str = json.loads(file.read_bytes())
    return found


@contextmanager
def lock_folder(folder: Path, *, waits: bool = True) -> Iterator[None]:
    """Hold an exclusive lock, so that no two processes write to one folder while a killed child still exits.

    Errors: `BlockingIOError` if another process holds the lock and `waits` is false.
    """
    with (folder / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield


def sweep_folders(home: Path, jobs: Jobs, clock: Callable[[], datetime] = utc_now) -> int:
    """Remove the folders below `home` of jobs that finished more than `RETENTION` ago; return their number.

    Their results are in the block store by then. A locked folder is left for a later sweep. Folders of jobs
    that `jobs` does not have are left alone.
    """
    before = clock() - RETENTION
    return sum(_remove(folder) for folder in home.glob("*-*") if _is_expired(jobs, folder.name, before))


def _is_expired(jobs: Jobs, job_id: str, before: datetime) -> bool:
    try:
        finished_at = jobs.get(job_id).finished_at
    except NotFound:
        return False
    return finished_at is not None and finished_at < before


def remove_incomplete(folder: Path) -> None:
    """Remove from a job's folder what a process that ended early was writing: checkpoints without a mark, the
    draft of the adapter, and its copy from the block store. On a full disk no next process may start, which
    would do so. A locked folder is left alone.
    """
    with suppress(OSError), lock_folder(folder, waits=False):
        unmarked = (
            path for path in (folder / CHECKPOINTS).glob("checkpoint-*") if not (path / COMPLETE).exists()
        )
        for path in (*unmarked, draft_of(folder), folder / READ_BACK):
            shutil.rmtree(path, ignore_errors=True)


def _remove(folder: Path) -> bool:
    try:
        with lock_folder(folder, waits=False):
            shutil.rmtree(folder)
    except OSError as error:
        log.warning("cannot remove %s yet: %s", folder, error)
        return False
    return True
