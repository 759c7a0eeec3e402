"""State transitions of jobs: enqueued, finished, failed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.errors import NotFound
from backend.domain.training import (
    JobState,
    Lease,
    TrainingJob,
)
from backend.domain.webhooks import EventType
from backend.services.train.payments import release
from backend.services.webhooks.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.db.unit_of_work import UnitOfWork

    Clock = Callable[[], datetime]

REDELIVERY_SECONDS = 30
MAX_REDELIVERY_SECONDS = 600
"""A queued job is sent to the workers again, in case the broker lost a message: after `REDELIVERY_SECONDS`,
then at doubling intervals up to this one.
"""

_EVENTS = {
    JobState.SUCCEEDED: EventType.JOB_SUCCEEDED,
    JobState.FAILED: EventType.JOB_FAILED,
    JobState.CANCELLED: EventType.JOB_CANCELLED,
}


def utc_now() -> datetime:
    return datetime.now(UTC)


def require_job(job: TrainingJob | None, job_id: str) -> TrainingJob:
    """A training job, not an import. Errors: `NotFound`."""
    if job is None or job.imported is not None:
        raise NotFound(f"no training job {job_id}", param="job_id")
    return job


def enqueue(
    tx: UnitOfWork, job: TrainingJob, now: datetime, attempt: int = 0, since: datetime | None = None
) -> TrainingJob:
    """Free the job's lease and send its next step to the workers; `since`: when that step was first sent."""
    since = since or now
    waited = (now - since).total_seconds()
    wait = timedelta(seconds=min(max(waited, REDELIVERY_SECONDS), MAX_REDELIVERY_SECONDS))
    job = replace(job, lease=Lease(None, now + wait, since, attempt))
    tx.training.save(job)
    if job.step is not None:
        key = f"{job.id}:{job.step.value}:{int(now.timestamp() * 1000)}"
        kind = "training" if job.imported is None else "import"
        tx.outbox.add(f"{kind}.{job.step.value}", {"job_id": job.id}, key)
    return job


def finish(tx: UnitOfWork, job: TrainingJob, state: JobState, now: datetime) -> TrainingJob:
    release(tx, job)
    job = replace(job, state=state, finished_at=now, lease=Lease(None, now))
    tx.training.save(job)
    tx.training.add_event(job.id, "state", {"state": state.value}, now)
    if job.imported is None:
        emit(tx, job.creator, _EVENTS[state], {"id": job.id}, now)
    return job


def fail(tx: UnitOfWork, job: TrainingJob, error: Mapping[str, Any], now: datetime) -> None:
    tx.training.add_event(job.id, "failed", error, now)
    finish(tx, replace(job, error=error), JobState.FAILED, now)
