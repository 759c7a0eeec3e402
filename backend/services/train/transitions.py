"""How a job goes on: offered, finished, failed. Each step writes the job and an event of it."""

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
from backend.services.train.payments import release

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.db.unit_of_work import UnitOfWork

    Clock = Callable[[], datetime]

OFFER_SECONDS = 30
LONGEST_OFFER_SECONDS = 600
"""A waiting job is offered to the workers again, in case the broker lost a message: after `OFFER_SECONDS`,
then after twice as long each time, up to this.
"""


def utc_now() -> datetime:
    return datetime.now(UTC)


def known(job: TrainingJob | None, job_id: str) -> TrainingJob:
    """One that trains. Errors: `NotFound`."""
    if job is None or job.imported is not None:
        raise NotFound(f"no training job {job_id}", param="job_id")
    return job


def offer(
    tx: UnitOfWork, job: TrainingJob, now: datetime, attempt: int = 0, since: datetime | None = None
) -> TrainingJob:
    """Leave the job's next step to whoever takes it, and wake somebody; `since`: when that was done first."""
    since = since or now
    waited = (now - since).total_seconds()
    wait = timedelta(seconds=min(max(waited, OFFER_SECONDS), LONGEST_OFFER_SECONDS))
    job = replace(job, lease=Lease(None, now + wait, since, attempt))
    tx.training.save(job)
    if job.step is not None:
        key = f"{job.id}:{job.step.value}:{int(now.timestamp() * 1000)}"
        tx.outbox.add(f"training.{job.step.value}", {"job_id": job.id}, key)
    return job


def finish(tx: UnitOfWork, job: TrainingJob, state: JobState, now: datetime) -> TrainingJob:
    release(tx, job)
    job = replace(job, state=state, finished_at=now, lease=Lease(None, now))
    tx.training.save(job)
    tx.training.add_event(job.id, "state", {"state": state.value}, now)
    return job


def fail(tx: UnitOfWork, job: TrainingJob, error: Mapping[str, Any], now: datetime) -> None:
    tx.training.add_event(job.id, "failed", error, now)
    finish(tx, replace(job, error=error), JobState.FAILED, now)
