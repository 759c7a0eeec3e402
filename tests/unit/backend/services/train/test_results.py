"""Results lie in the home of the worker that trained."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from backend.db.tables.training import TrainingEventRow
from backend.domain.training import JobState, Step
from backend.services.train.leases import RESULT_WAIT
from tests.unit.workers.support import DATASET, RESULT

if TYPE_CHECKING:
    from backend.domain.training import TrainingJob
    from tests.unit.workers.support import JobHarness

SECOND = timedelta(seconds=1)


def trained(harness: JobHarness, home: str) -> TrainingJob:
    validated = harness.create_leased()
    harness.leases.complete_validation(validated, DATASET)
    held = harness.leases.acquire(validated.job.id, Step.TRAIN, home)
    assert held is not None
    harness.leases.complete_training(held, RESULT)
    return harness.training.get(held.job.id)


@pytest.mark.parametrize(
    ("home", "waited", "is_elsewhere"),
    [
        ("a", timedelta(0), False),
        ("a", 2 * RESULT_WAIT, False),
        ("b", timedelta(0), None),
        ("b", RESULT_WAIT - SECOND, None),
        ("b", RESULT_WAIT, True),
    ],
)
def test_workers_of_another_home_take_a_result_only_after_the_wait(
    harness: JobHarness, home: str, waited: timedelta, *, is_elsewhere: bool | None
) -> None:
    job = trained(harness, "a")
    harness.wait(waited.total_seconds())
    held = harness.leases.acquire(job.id, Step.PUBLISH, home)
    assert (held and held.is_result_elsewhere) is is_elsewhere


def test_a_refused_worker_changes_nothing(harness: JobHarness) -> None:
    job = trained(harness, "a")
    events = harness.events(job)
    assert harness.leases.acquire(job.id, Step.PUBLISH, "b") is None
    assert (harness.training.get(job.id), harness.events(job)) == (job, events)


def test_a_job_of_a_version_that_recorded_no_home_is_looked_for_by_every_worker(harness: JobHarness) -> None:
    job = trained(harness, "a")
    with harness.database.begin() as tx:
        tx.session.query(TrainingEventRow).filter_by(job_id=job.id, kind="result").delete()
    held = harness.leases.acquire(job.id, Step.PUBLISH, "b")
    assert held is not None
    harness.leases.retry_without_adapter(held)
    assert harness.training.get(job.id).step is Step.PUBLISH


def test_unpublished_results_are_those_of_jobs_that_are_not_over(harness: JobHarness) -> None:
    harness.job()
    jobs = [trained(harness, "a") for _ in range(3)]
    harness.training.cancel(jobs[1].id, jobs[1].creator)
    assert harness.training.get(jobs[1].id).state is JobState.CANCELLED
    assert set(harness.leases.unpublished(are_imported=False)) == {jobs[0].id, jobs[2].id}
    assert harness.leases.unpublished(are_imported=True) == []
