from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.ids import Cid
from backend.domain.training import Step
from tests.unit.workers.support import CREATOR, DATASET, RESULT, JobHarness
from workers.training.folders import RETENTION, lock_folder, sweep_folders

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.training import TrainingJob

CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")


@pytest.fixture
def harness(sqlite_database: Database) -> JobHarness:
    return JobHarness(sqlite_database)


def cancelled(harness: JobHarness) -> TrainingJob:
    return harness.training.cancel(harness.job().id, CREATOR)


def succeeded(harness: JobHarness) -> TrainingJob:
    job = harness.job()
    for step in Step:
        held = harness.leases.acquire(job.id, step)
        assert held is not None
        if step is Step.VALIDATE:
            harness.leases.complete_validation(held, DATASET)
        elif step is Step.TRAIN:
            harness.leases.complete_training(held, RESULT)
        else:
            harness.leases.complete_publication(held, CID)
    return harness.training.get(job.id)


def failed(harness: JobHarness) -> TrainingJob:
    job = harness.job()
    held = harness.leases.acquire(job.id, Step.VALIDATE)
    assert held is not None
    harness.leases.fail(held, {"code": "x", "message": "x"})
    return harness.training.get(job.id)


def folder_of(home: Path, job_id: str) -> Path:
    folder = home / job_id
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "log.txt").write_text("words")
    return folder


def test_folders_of_jobs_that_are_over_go_after_a_while_and_no_others(
    harness: JobHarness, tmp_path: Path
) -> None:
    over = [folder_of(tmp_path, make(harness).id) for make in (cancelled, succeeded, failed)]
    open_job = folder_of(tmp_path, harness.job().id)
    unknown = folder_of(tmp_path, "ftjob-unknown")
    assert sweep_folders(tmp_path, harness.training, lambda: harness.now) == 0
    harness.wait(RETENTION.total_seconds() + 1)
    assert sweep_folders(tmp_path, harness.training, lambda: harness.now) == 3
    assert not any(folder.exists() for folder in over)
    assert open_job.is_dir()
    assert unknown.is_dir()
    assert sweep_folders(tmp_path, harness.training, lambda: harness.now) == 0


def test_a_folder_in_use_stays_until_a_later_sweep(harness: JobHarness, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, cancelled(harness).id)
    harness.wait(RETENTION.total_seconds() + 1)
    with lock_folder(folder):
        assert sweep_folders(tmp_path, harness.training, lambda: harness.now) == 0
        assert (folder / "log.txt").exists()
    assert sweep_folders(tmp_path, harness.training, lambda: harness.now) == 1


def test_no_folder_at_all_is_swept_in_peace(harness: JobHarness, tmp_path: Path) -> None:
    assert sweep_folders(tmp_path / "none", harness.training, lambda: harness.now) == 0
