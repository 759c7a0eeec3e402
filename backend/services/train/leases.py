"""The workers' side of fine-tuning jobs.

The database decides who works on what; the broker only wakes workers. A job is worked on under a lease that
is renewed while the work goes on. Every write of a worker names its lease, so a worker that lost it can
change nothing any more.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict
from backend.domain.training import (
    RESTING,
    Dataset,
    JobState,
    Lease,
    Step,
    TrainingJob,
    TrainingResult,
)
from backend.domain.training_payment import max_trained_tokens
from backend.services.train.payments import withdrawn
from backend.services.train.transitions import fail, finish, offer, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Cid
    from backend.services.train.payments import Payments
    from backend.services.train.transitions import Clock

MAX_ATTEMPTS = 5
"""A step that was begun this often without an end is given up: it kills its workers."""


class RowsDiffer(Conflict):
    """A snapshot has more rows than its contributions say on the chain, by which the job was priced."""


class LeaseLost(Conflict):
    """The job was cancelled, or taken over after the lease ran out. Stop, and touch nothing."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job that this process works on; `owner` is unique to this taking of it."""

    job: TrainingJob
    owner: str


class Leases:
    """The workers' side: take a step of a job, keep it, end it.

    Instants come from this machine: machines that share a database must agree on the time within `seconds`.
    """

    def __init__(
        self, db: Database, payments: Payments, clock: Clock = utc_now, seconds: float = 30.0
    ) -> None:
        self._db = db
        self._payments = payments
        self._clock = clock
        self._term = timedelta(seconds=seconds)
        self.heartbeat_seconds = min(2.0, seconds / 5)

    def take(self, job_id: str, step: Step) -> Held | None:
        """Begin a step. None when it is done, somebody else works on it, or it is given up now."""
        now = self._clock()
        with self._db.begin() as tx:
            job = tx.training.locked(job_id)
            if job is None or job.step is not step or not job.lease.is_free(now):
                return None
            if job.lease.attempt >= MAX_ATTEMPTS:
                fail(tx, job, _given_up(step), now)
                return None
            if step is Step.TRAIN and (error := withdrawn(tx, job, now)) is not None:
                fail(tx, job, {"code": error.code, "message": error.message, **error.details}, now)
                return None
            owner, attempt = str(uuid.uuid4()), job.lease.attempt + 1
            state = JobState.RUNNING if step is Step.TRAIN else job.state
            job = replace(job, state=state, lease=Lease(owner, now + self._term, now, attempt))
            tx.training.save(job)
            data = {"state": state.value, "step": step.value, "attempt": attempt}
            tx.training.add_event(job.id, "state", data, now)
        return Held(job, owner)

    def renew(self, held: Held) -> bool:
        """Keep working. False when the job was cancelled or taken over: stop at once."""
        now = self._clock()
        try:
            with self._holding(held) as (tx, job):
                lease = replace(job.lease, until=now + self._term, heartbeat_at=now)
                tx.training.save(replace(job, lease=lease))
        except LeaseLost:
            return False
        return True

    def report(self, held: Held, kind: str, data: Mapping[str, Any]) -> None:
        """Record an event. Errors: `LeaseLost`, as in all methods below."""
        with self._holding(held) as (tx, job):
            tx.training.add_event(job.id, kind, data, self._clock())
            if kind == "checkpoint":
                tx.training.save(replace(job, lease=replace(job.lease, attempt=1)))

    def release(self, held: Held, error: str | None = None) -> None:
        """Give the step back unfinished. Without an error it is offered again at once and does not count;
        with one nobody takes it for 2 seconds, twice as long after each further attempt.
        """
        now = self._clock()
        with self._holding(held) as (tx, job):
            attempt = job.lease.attempt
            if error is None:
                tx.training.save(replace(job, lease=Lease(None, now, None, attempt - 1)))
                return
            rest = Lease(RESTING, now + timedelta(seconds=2**attempt), None, attempt)
            tx.training.save(replace(job, lease=rest))
            tx.training.add_event(job.id, "retry", {"message": error, "attempt": attempt}, now)

    def validated(self, held: Held, dataset: Dataset) -> None:
        """Errors: `RowsDiffer`."""
        now = self._clock()
        with self._holding(held) as (tx, job):
            _check_bound(job, dataset)
            data = {"digest": dataset.digest, "num_rows": dataset.num_rows}
            tx.training.add_event(job.id, "dataset", data, now)
            offer(tx, replace(job, state=JobState.QUEUED, dataset=dataset), now)
            tx.training.add_event(job.id, "state", {"state": JobState.QUEUED.value}, now)

    def accepted(self, held: Held, result: TrainingResult) -> None:
        """Of a foreign adapter: what is left is to publish it."""
        now = self._clock()
        with self._holding(held) as (tx, job):
            offer(tx, replace(job, state=JobState.RUNNING, result=result), now)
            tx.training.add_event(job.id, "state", {"state": JobState.RUNNING.value}, now)

    def trained(self, held: Held, result: TrainingResult) -> None:
        with self._holding(held) as (tx, job):
            offer(tx, replace(job, result=result), self._clock())

    def without_adapter(self, held: Held) -> None:
        """Leave it to the worker that has the adapter's folder; once nobody had it for long, begin again."""
        if held.job.lease.attempt < MAX_ATTEMPTS:
            self.release(held, "the adapter's folder is not here")
            return
        now = self._clock()
        with self._holding(held) as (tx, job):
            lost = {"message": "the adapter's folder is lost: beginning again", "attempt": job.lease.attempt}
            tx.training.add_event(job.id, "retry", lost, now)
            state = JobState.QUEUED if job.imported is None else JobState.VALIDATING
            offer(tx, replace(job, state=state, result=None), now)
            tx.training.add_event(job.id, "state", {"state": state.value}, now)

    def published(self, held: Held, cid: Cid) -> TrainingJob:
        """The end of the job, and what it costs."""
        now = self._clock()
        with self._holding(held) as (tx, job):
            tx.training.add_event(job.id, "published", {"cid": cid}, now)
            charged = self._payments.charge(tx, replace(job, cid=cid), now)
            return finish(tx, charged, JobState.SUCCEEDED, now)

    def failed(self, held: Held, error: Mapping[str, Any]) -> None:
        """End a job that no other attempt would bring further."""
        with self._holding(held) as (tx, job):
            fail(tx, job, error, self._clock())

    def offer_lapsed(self, limit: int = 100) -> int:
        """Offer every job again whose worker died or whose message was lost; how many."""
        now = self._clock()
        with self._db.begin() as tx:
            jobs = [tx.training.locked(job_id) for job_id in tx.training.lapsed(now, limit)]
            lapsed = [job for job in jobs if job and not job.is_over and job.lease.until <= now]
            for job in lapsed:
                since = job.lease.heartbeat_at if job.lease.owner is None else None
                offer(tx, job, now, attempt=job.lease.attempt, since=since)
        return len(lapsed)

    @contextmanager
    def _holding(self, held: Held) -> Iterator[tuple[UnitOfWork, TrainingJob]]:
        with self._db.begin() as tx:
            job = tx.training.locked(held.job.id)
            if job is None or job.is_over or job.lease.owner != held.owner:
                raise LeaseLost(f"another worker has {held.job.id}, or it was cancelled", param="job_id")
            yield tx, job


def _check_bound(job: TrainingJob, dataset: Dataset) -> None:
    if job.payment is not None and max_trained_tokens(job.config, dataset.num_rows) > job.payment.max_tokens:
        message = f"snapshot {job.snapshot_id} has {dataset.num_rows} rows, more than its contributions say"
        raise RowsDiffer(f"{message} on the chain, by which the job was priced", param="snapshot_id")


def _given_up(step: Step) -> dict[str, Any]:
    return {"code": "given_up", "message": f"the step {step.value!r} was begun {MAX_ATTEMPTS} times in vain"}
