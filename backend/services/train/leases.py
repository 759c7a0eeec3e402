"""Leases of jobs, by which workers claim, renew and complete steps.

The database has the leases; messages of the broker only wake workers. A worker renews its lease while it
works. Every write checks the lease, so a worker that lost it cannot change the job.

The result of training lies in the home of the worker that trained, the folder of its jobs, which other
machines need not have. The event `result` names this home. Only its workers publish the result.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.denials import ContentWithheld, ModelDenied
from backend.domain.errors import Conflict
from backend.domain.training import (
    RESTING,
    Dataset,
    JobEvent,
    JobState,
    Lease,
    Step,
    TrainingJob,
    TrainingResult,
)
from backend.services.market.denials import check_adapter, check_trainable
from backend.services.train.payments import stated_rows, uncovered_charge, uncovered_payment
from backend.services.train.transitions import MAX_REDELIVERY_SECONDS, enqueue, fail, finish, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.errors import DomainError
    from backend.domain.ids import Cid
    from backend.services.train.payments import Payments
    from backend.services.train.transitions import Clock

MAX_ATTEMPTS = 5
"""Attempts of a step after which the job fails: such a step may crash its workers."""
RESULT_WAIT = timedelta(hours=24)
"""How long a result waits for a worker of its home before the job is trained again: such a worker may be busy
with another job's step, or its machine be down.
"""
MAX_OUTAGE = timedelta(hours=24)
"""How long a step waits for a part of the installation that is away before the job fails."""
MAX_ROWS_WAIT = timedelta(days=7)
"""How long a job in training waits for the worker that has its rows, which may be busy with other jobs."""
MAX_UNTRIED = timedelta(seconds=3 * MAX_REDELIVERY_SECONDS)
"""Pause between two attempts after which the second begins a new outage: without attempts, it is unknown
whether the first outage lasted.
"""
RETRY_SECONDS = 2
"""The shortest pause between two attempts."""
_COVER_BY_STATE = {JobState.QUEUED: uncovered_payment, JobState.RUNNING: uncovered_charge}
"""What the job's channel must cover for training to start, and then for it to go on or for publication."""


class RowsDiffer(Conflict):
    """A snapshot has more rows than its contributions state on the chain, on which the price is based."""


class LeaseLost(Conflict):
    """The job was cancelled, or another worker holds its lease. Stop without further writes."""


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """A job that this process works on; `owner` is unique per lease. `furthest_step`: of the checkpoints that
    earlier leases reached. `home`: id of the folder in which this process keeps results.
    """

    job: TrainingJob
    owner: str
    furthest_step: int = 0
    home: str = ""
    is_result_elsewhere: bool = False
    """Whether the result lies in another home, for whose workers it has waited long enough."""


class Leases:
    """Acquires, renews, completes and releases leases of `seconds`.

    Uses the local clock: the clocks of machines that share a database must agree within `seconds`.
    """

    def __init__(
        self, db: Database, payments: Payments, clock: Clock = utc_now, seconds: float = 30.0
    ) -> None:
        self._db = db
        self._payments = payments
        self._clock = clock
        self._term = timedelta(seconds=seconds)
        self.heartbeat_seconds = min(2.0, seconds / 5)

    def acquire(self, job_id: str, step: Step, home: str = "") -> LeasedJob | None:
        """Start a step. None if it is done, another worker holds it, its result waits for a worker of another
        `home`, or the job fails here.
        """
        now = self._clock()
        with self._db.begin() as tx:
            job = tx.training.locked(job_id)
            if job is None or job.step is not step or not job.lease.is_free(now):
                return None
            if job.lease.attempt >= MAX_ATTEMPTS:
                fail(tx, job, _attempts_exhausted(step), now)
                return None
            result = _results(tx, job)[-1:] if step is Step.PUBLISH else []
            is_elsewhere = any(event.data["home"] != home for event in result)
            if is_elsewhere and now - result[0].at < RESULT_WAIT:
                return None  # the job is offered again, as if the message had been lost
            if (error := _obstacle(tx, job, now)) is not None:
                fail(tx, job, {"code": error.code, "message": error.message, **error.details}, now)
                return None
            owner, attempt = str(uuid.uuid4()), job.lease.attempt + 1
            state = JobState.RUNNING if step is Step.TRAIN else job.state
            job = replace(job, state=state, lease=Lease(owner, now + self._term, now, attempt))
            tx.training.save(job)
            data = {"state": state.value, "step": step.value, "attempt": attempt}
            tx.training.add_event(job.id, "state", data, now)
            furthest_step = tx.training.furthest_step(job.id)
        return LeasedJob(job, owner, furthest_step, home, is_elsewhere)

    def unpublished(self, *, are_imported: bool) -> list[str]:
        """Ids of unfinished jobs, or of imports, that have a result, the oldest first."""
        with self._db.read() as tx:
            return tx.training.unpublished(are_imported=are_imported)

    def renew(self, leased: LeasedJob) -> bool:
        """Extend the lease. False if it is lost: the worker must stop at once."""
        now = self._clock()
        try:
            with self._locked(leased) as (tx, job):
                lease = replace(job.lease, until=now + self._term, heartbeat_at=now)
                tx.training.save(replace(job, lease=lease))
        except LeaseLost:
            return False
        return True

    def record_event(self, leased: LeasedJob, kind: str, data: Mapping[str, Any]) -> None:
        """Add a job event. A checkpoint at a later step than those of earlier leases resets the number of
        attempts. A worker that lacks the files of earlier checkpoints repeats their steps, which resets
        nothing.

        Errors: `LeaseLost`, as for all methods below.
        """
        with self._locked(leased) as (tx, job):
            tx.training.add_event(job.id, kind, data, self._clock())
            if kind == "checkpoint" and data["step"] > leased.furthest_step:
                tx.training.save(replace(job, lease=replace(job.lease, attempt=1)))

    def release(self, leased: LeasedJob, error: str | None = None) -> None:
        """End the lease without completing the step. Without an error the step is queued at once, and the
        attempt does not count; with one it is retried after `RETRY_SECONDS`, doubled with each further one.
        """
        now = self._clock()
        with self._locked(leased) as (tx, job):
            attempt = job.lease.attempt
            if error is None:
                tx.training.save(replace(job, lease=Lease(None, now, None, attempt - 1)))
                return
            backoff = Lease(
                RESTING, now + timedelta(seconds=RETRY_SECONDS * 2 ** (attempt - 1)), None, attempt
            )
            tx.training.save(replace(job, lease=backoff))
            tx.training.add_event(job.id, "retry", {"message": error, "attempt": attempt}, now)

    def wait(self, leased: LeasedJob, reason: str, limit: timedelta = MAX_OUTAGE) -> None:
        """End the lease because a part of the installation is away, such as the block store. The attempt does
        not count: the step is retried after `RETRY_SECONDS`, then at doubling intervals up to
        `MAX_REDELIVERY_SECONDS`. Fail the job if this lasts for `limit`, without a pause of more than
        `MAX_UNTRIED` between two attempts.
        """
        now = self._clock()
        with self._locked(leased) as (tx, job):
            since = _waiting_since(tx, leased.job) or now
            waited = now - since
            if waited >= limit:
                fail(tx, job, _outage_too_long(reason, limit), now)
                return
            seconds = min(max(waited.total_seconds(), RETRY_SECONDS), MAX_REDELIVERY_SECONDS)
            attempt = job.lease.attempt - 1
            backoff = Lease(RESTING, now + timedelta(seconds=seconds), None, attempt)
            tx.training.save(replace(job, lease=backoff))
            data = {"message": reason, "attempt": attempt, "since": since.isoformat()}
            tx.training.add_event(job.id, "retry", data, now)

    def complete_validation(self, leased: LeasedJob, dataset: Dataset) -> None:
        """Errors: `RowsDiffer`."""
        now = self._clock()
        with self._locked(leased) as (tx, job):
            _check_rows(tx, job, dataset)
            data = {"digest": dataset.digest, "num_rows": dataset.num_rows}
            tx.training.add_event(job.id, "dataset", data, now)
            enqueue(tx, replace(job, state=JobState.QUEUED, dataset=dataset), now)
            tx.training.add_event(job.id, "state", {"state": JobState.QUEUED.value}, now)

    def complete_import(self, leased: LeasedJob, result: TrainingResult) -> None:
        """An imported adapter is valid: queue its publication."""
        now = self._clock()
        with self._locked(leased) as (tx, job):
            _record_result(tx, leased, now)
            enqueue(tx, replace(job, state=JobState.RUNNING, result=result), now)
            tx.training.add_event(job.id, "state", {"state": JobState.RUNNING.value}, now)

    def complete_training(self, leased: LeasedJob, result: TrainingResult) -> None:
        now = self._clock()
        with self._locked(leased) as (tx, job):
            _record_result(tx, leased, now)
            enqueue(tx, replace(job, result=result), now)

    def retry_without_adapter(self, leased: LeasedJob) -> None:
        """Look for the adapter's folder again later, in case it cannot be read at present. After
        `MAX_ATTEMPTS`, or if it lies in another home, train again; fail the job after as many results.
        """
        if leased.job.lease.attempt < MAX_ATTEMPTS and not leased.is_result_elsewhere:
            self.release(leased, "this worker does not have the adapter's folder")
            return
        now = self._clock()
        with self._locked(leased) as (tx, job):
            if len(_results(tx, job)) >= MAX_ATTEMPTS:
                message = f"the adapter's folder was lost {MAX_ATTEMPTS} times"
                fail(tx, job, {"code": "given_up", "message": message}, now)
                return
            lost = {"message": "the adapter's folder is lost: starting again", "attempt": job.lease.attempt}
            tx.training.add_event(job.id, "retry", lost, now)
            state = JobState.QUEUED if job.imported is None else JobState.VALIDATING
            enqueue(tx, replace(job, state=state, result=None), now)
            tx.training.add_event(job.id, "state", {"state": state.value}, now)

    def begin_publication(self, leased: LeasedJob, cid: Cid) -> None:
        """Record the folder that is about to be stored, so that it is deleted if the job ends otherwise."""
        with self._locked(leased) as (tx, job):
            tx.training.save(replace(job, cid=cid))

    def complete_publication(self, leased: LeasedJob, cid: Cid) -> TrainingJob:
        """Finish the job and charge for it. Errors: `PaymentWithdrawn`, and those of denials, after which
        nothing has changed.
        """
        now = self._clock()
        with self._locked(leased) as (tx, job):
            _check_denials(tx, job)
            tx.training.add_event(job.id, "published", {"cid": cid}, now)
            charged = self._payments.charge(tx, replace(job, cid=cid), now)
            return finish(tx, charged, JobState.SUCCEEDED, now)

    def fail(self, leased: LeasedJob, error: Mapping[str, Any]) -> None:
        """Fail the job: the error is permanent."""
        with self._locked(leased) as (tx, job):
            fail(tx, job, error, self._clock())

    def requeue_expired(self, limit: int = 100) -> int:
        """Queue jobs with expired leases again, after a crash or a lost message; return their number."""
        now = self._clock()
        with self._db.begin() as tx:
            jobs = [tx.training.locked(job_id) for job_id in tx.training.lapsed(now, limit)]
            lapsed = [job for job in jobs if job and not job.is_over and job.lease.until <= now]
            for job in lapsed:
                since = job.lease.heartbeat_at if job.lease.owner is None else None
                enqueue(tx, job, now, attempt=job.lease.attempt, since=since)
        return len(lapsed)

    @contextmanager
    def _locked(self, leased: LeasedJob) -> Iterator[tuple[UnitOfWork, TrainingJob]]:
        with self._db.begin() as tx:
            job = tx.training.locked(leased.job.id)
            if job is None or job.is_over or job.lease.owner != leased.owner:
                raise LeaseLost(f"another worker holds {leased.job.id}, or it was cancelled", param="job_id")
            yield tx, job


def _obstacle(tx: UnitOfWork, job: TrainingJob, now: datetime) -> DomainError | None:
    """Why the step must not start."""
    try:
        _check_denials(tx, job)
    except (ContentWithheld, ModelDenied) as error:
        return error
    uncovered = _COVER_BY_STATE.get(job.state)
    return None if uncovered is None else uncovered(tx, job, now)


def _check_denials(tx: UnitOfWork, job: TrainingJob) -> None:
    """Raise `ContentWithheld`, `ModelDenied` or `ModelWithheld` if the rows, the parent or the adapter of the
    job were denied since it was created.
    """
    snapshot = tx.chain.snapshot(job.snapshot_id)
    if snapshot is not None:
        check_trainable(tx, snapshot)
    parent = None if job.config.parent is None else tx.chain.version(job.config.parent)
    if parent is not None:
        check_adapter(tx, parent.adapter_digest, "parent")
    if job.result is not None:
        check_adapter(tx, job.result.adapter_digest, "model")


def _record_result(tx: UnitOfWork, leased: LeasedJob, now: datetime) -> None:
    tx.training.add_event(leased.job.id, "result", {"home": leased.home}, now)


def _results(tx: UnitOfWork, job: TrainingJob) -> list[JobEvent]:
    """Where the results of the job were written, the newest last; none by a version without this event."""
    return tx.training.events(job.id, 0, None, {"result"})


def _waiting_since(tx: UnitOfWork, job: TrainingJob) -> datetime | None:
    """When the job's present outage began; None if it has come further since the last one, or was not tried
    for `MAX_UNTRIED`. `job`: as it was when the lease began.
    """
    newest = tx.training.newest_event(job.id, {"dataset", "checkpoint", "result", "retry"})
    tried_at = job.lease.heartbeat_at
    if newest is None or "since" not in newest.data or tried_at is None or tried_at - newest.at > MAX_UNTRIED:
        return None
    return datetime.fromisoformat(newest.data["since"])


def _check_rows(tx: UnitOfWork, job: TrainingJob, dataset: Dataset) -> None:
    if job.payment is not None and dataset.num_rows > stated_rows(tx.chain, job.snapshot_id):
        message = f"snapshot {job.snapshot_id} has {dataset.num_rows} rows, more than its contributions state"
        raise RowsDiffer(f"{message} on the chain, on which the price is based", param="snapshot_id")


def _attempts_exhausted(step: Step) -> dict[str, Any]:
    return {"code": "given_up", "message": f"the step {step.value!r} failed {MAX_ATTEMPTS} times"}


def _outage_too_long(reason: str, limit: timedelta) -> dict[str, Any]:
    hours = limit // timedelta(hours=1)
    return {"code": "given_up", "message": f"the step could not go on for {hours} hours: {reason}"}
