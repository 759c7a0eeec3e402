from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.ids import Cid
from backend.domain.training import Step
from tests.unit.workers.support import CREATOR, DATASET, RESULT, Desk
from workers.training.folders import RETENTION, lock_folder, sweep_folders

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.training import TrainingJob

CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")


@pytest.fixture
def desk(sqlite_database: Database) -> Desk:
    return Desk(sqlite_database)


def cancelled(desk: Desk) -> TrainingJob:
    return desk.training.cancel(desk.job().id, CREATOR)


def succeeded(desk: Desk) -> TrainingJob:
    job = desk.job()
    for step in Step:
        held = desk.leases.acquire(job.id, step)
        assert held is not None
        if step is Step.VALIDATE:
            desk.leases.complete_validation(held, DATASET)
        elif step is Step.TRAIN:
            desk.leases.complete_training(held, RESULT)
        else:
            desk.leases.complete_publication(held, CID)
    return desk.training.get(job.id)


def failed(desk: Desk) -> TrainingJob:
    job = desk.job()
    held = desk.leases.acquire(job.id, Step.VALIDATE)
    assert held is not None
    desk.leases.fail(held, {"code": "x", "message": "x"})
    return desk.training.get(job.id)


def folder_of(home: Path, job_id: str) -> Path:
    folder = home / job_id
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "log.txt").write_text("words")
    return folder


def test_folders_of_jobs_that_are_over_go_after_a_while_and_no_others(desk: Desk, tmp_path: Path) -> None:
    over = [folder_of(tmp_path, make(desk).id) for make in (cancelled, succeeded, failed)]
    open_job = folder_of(tmp_path, desk.job().id)
    unknown = folder_of(tmp_path, "ftjob-unknown")
    assert sweep_folders(tmp_path, desk.training, lambda: desk.now) == 0
    desk.wait(RETENTION.total_seconds() + 1)
    assert sweep_folders(tmp_path, desk.training, lambda: desk.now) == 3
    assert not any(folder.exists() for folder in over)
    assert open_job.is_dir()
    assert unknown.is_dir()
    assert sweep_folders(tmp_path, desk.training, lambda: desk.now) == 0


def test_a_folder_in_use_stays_until_a_later_sweep(desk: Desk, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, cancelled(desk).id)
    desk.wait(RETENTION.total_seconds() + 1)
    with lock_folder(folder):
        assert sweep_folders(tmp_path, desk.training, lambda: desk.now) == 0
        assert (folder / "log.txt").exists()
    assert sweep_folders(tmp_path, desk.training, lambda: desk.now) == 1


def test_no_folder_at_all_is_swept_in_peace(desk: Desk, tmp_path: Path) -> None:
    assert sweep_folders(tmp_path / "none", desk.training, lambda: desk.now) == 0
