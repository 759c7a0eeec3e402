"""Fine-tuning jobs: what a creator may ask for, and how workers share it.

The database decides who works on what; the broker only wakes workers. A job is worked on under a lease that
is renewed while the work goes on. Every write of a worker names its lease, so a worker that lost it can
change nothing any more.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.training import (
    LINEAR_LAYERS,
    MAX_BATCH_TOKENS,
    RESTING,
    Dataset,
    EmptySnapshot,
    JobState,
    Lease,
    Step,
    TrainingConfig,
    TrainingJob,
    TrainingResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from backend.domain.ids import Account, Cid, SnapshotId
    from backend.domain.training import JobEvent
    from backend.ports.training import TrainingTx

    Begin = Callable[[], AbstractContextManager[TrainingTx]]
    Clock = Callable[[], datetime]

MAX_ATTEMPTS = 5
"""A step that was begun this often without an end is given up: it kills its workers."""
OFFER_SECONDS = 30
LONGEST_OFFER_SECONDS = 600
"""A waiting job is offered to the workers again, in case the broker lost a message: after `OFFER_SECONDS`,
then after twice as long each time, up to this.
"""

_RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, 128),
    "alpha": (1, 1024),
    "dropout": (0.0, 0.5),
    "learning_rate": (1e-6, 0.1),
    "warmup_fraction": (0.0, 0.5),
    "epochs": (0.01, 100.0),
    "batch_size": (1, 256),
    "max_length": (16, 8192),
    "eval_fraction": (0.01, 0.5),
    "seed": (0, 2**32 - 1),
    "checkpoint_steps": (1, 100_000),
}


class InvalidConfig(InvalidInput):
    """A hyper-parameter that is unknown, of the wrong type or out of range; `param` names it."""


class LeaseLost(Conflict):
    """The job was cancelled, or taken over after the lease ran out. Stop, and touch nothing."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def parse_config(raw: Mapping[str, Any]) -> TrainingConfig:
    """Hyper-parameters by name, defaults for the rest. Errors: `InvalidConfig` naming the first wrong one."""
    known = {field.name for field in fields(TrainingConfig)}
    for name in raw:
        if name not in known:
            raise InvalidConfig(f"unknown option {name!r}; known are {', '.join(sorted(known))}", param=name)
    config = TrainingConfig(**{name: _parse_option(name, value) for name, value in raw.items()})
    if config.batch_size * config.max_length > MAX_BATCH_TOKENS:
        given = f"{config.batch_size} x {config.max_length}"
        allowed = f"batch_size x max_length may be {MAX_BATCH_TOKENS} tokens at most, not {given}"
        raise InvalidConfig(f"{allowed}: lower either", param="batch_size")
    return config


def _parse_option(name: str, value: Any) -> Any:
    if name == "targets":
        return _parse_targets(value)
    kind = _OPTION_TYPES[name]
    if name not in _RANGES:
        choices = get_args(kind)
        if value not in choices:
            raise InvalidConfig(f"{name} must be one of {', '.join(choices)}, not {value!r}", param=name)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        expected = "a number" if kind is float else "an integer"
        raise InvalidConfig(f"{name} must be {expected}, not {value!r}", param=name)
    low, high = _RANGES[name]
    if not low <= value <= high:  # NaN fails too
        raise InvalidConfig(f"{name} must lie between {low} and {high}, not {value!r}", param=name)
    return kind(value)


def _parse_targets(value: Any) -> tuple[str, ...]:
    if value == "all-linear":
        return LINEAR_LAYERS
    wanted = value if isinstance(value, list | tuple) else ()
    if not wanted or any(layer not in LINEAR_LAYERS for layer in wanted):
        allowed = f'"all-linear" or a list out of {", ".join(LINEAR_LAYERS)}'
        raise InvalidConfig(f"targets must be {allowed}, not {value!r}", param="targets")
    return tuple(layer for layer in LINEAR_LAYERS if layer in wanted)


_OPTION_TYPES = get_type_hints(TrainingConfig)


class Training:
    """The creator's side."""

    def __init__(self, begin: Begin, read: Begin, clock: Clock = utc_now) -> None:
        self._begin = begin
        self._read = read
        self._clock = clock

    def create(self, creator: Account, snapshot_id: SnapshotId, config: Mapping[str, Any]) -> TrainingJob:
        """Queue a job. Errors: `InvalidConfig`, `NotFound` for the snapshot, `EmptySnapshot`."""
        parsed = parse_config(config)
        now = self._clock()
        job = TrainingJob(
            id=f"ftjob-{uuid.uuid4().hex}",
            creator=creator,
            snapshot_id=snapshot_id,
            config=parsed,
            state=JobState.VALIDATING,
            created_at=now,
            lease=Lease(None, now),
        )
        with self._begin() as tx:
            _check_snapshot(tx, snapshot_id)
            tx.training.add(job)
            job = _offer(tx, job, now)
            tx.training.add_event(job.id, "state", {"state": job.state.value}, now)
        return job

    def get(self, job_id: str) -> TrainingJob:
        """Errors: `NotFound`."""
        with self._read() as tx:
            return _known(tx.training.get(job_id), job_id)

    def list(self, creator: Account | None = None, limit: int = 50) -> Sequence[TrainingJob]:
        """Newest first."""
        with self._read() as tx:
            return tx.training.find(creator, limit)

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> Sequence[JobEvent]:
        """What happened since the event `after`, oldest first. Errors: `NotFound`."""
        with self._read() as tx:
            _known(tx.training.get(job_id), job_id)
            return tx.training.events(job_id, after, limit)

    def cancel(self, job_id: str, account: Account) -> TrainingJob:
        """Stop a job; its worker notices within a heartbeat. Cancelling twice is harmless.

        Errors: `NotFound`, `Forbidden` for anybody but its creator, `Conflict` once it succeeded or failed.
        """
        now = self._clock()
        with self._begin() as tx:
            job = _known(tx.training.locked(job_id), job_id)
            if job.creator != account:
                raise Forbidden(f"only the creator of {job_id} may cancel it", param="job_id")
            if job.state is JobState.CANCELLED:
                return job
            if job.is_over:
                raise Conflict(f"{job_id} has {job.state.value} already", param="job_id")
            return _finish(tx, job, JobState.CANCELLED, now)


@dataclass(frozen=True, slots=True)
class Held:
    """A job that this process works on; `owner` is unique to this taking of it."""

    job: TrainingJob
    owner: str


class Leases:
    """The workers' side: take a step of a job, keep it, end it.

    Instants come from this machine: machines that share a database must agree on the time within `seconds`.
    """

    def __init__(self, begin: Begin, clock: Clock = utc_now, seconds: float = 30.0) -> None:
        self._begin = begin
        self._clock = clock
        self._term = timedelta(seconds=seconds)
        self.heartbeat_seconds = min(2.0, seconds / 5)

    def take(self, job_id: str, step: Step) -> Held | None:
        """Begin a step. None when it is done, somebody else works on it, or it is given up now."""
        now = self._clock()
        with self._begin() as tx:
            job = tx.training.locked(job_id)
            if job is None or job.step is not step or not job.lease.is_free(now):
                return None
            if job.lease.attempt >= MAX_ATTEMPTS:
                _fail(tx, job, _given_up(step), now)
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
        now = self._clock()
        with self._holding(held) as (tx, job):
            data = {"digest": dataset.digest, "num_rows": dataset.num_rows}
            tx.training.add_event(job.id, "dataset", data, now)
            _offer(tx, replace(job, state=JobState.QUEUED, dataset=dataset), now)
            tx.training.add_event(job.id, "state", {"state": JobState.QUEUED.value}, now)

    def trained(self, held: Held, result: TrainingResult) -> None:
        with self._holding(held) as (tx, job):
            _offer(tx, replace(job, result=result), self._clock())

    def without_adapter(self, held: Held) -> None:
        """Leave it to the worker that has the adapter's folder; once nobody had it for long, train again."""
        if held.job.lease.attempt < MAX_ATTEMPTS:
            self.release(held, "the adapter's folder is not here")
            return
        now = self._clock()
        with self._holding(held) as (tx, job):
            lost = {"message": "the adapter's folder is lost: training again", "attempt": job.lease.attempt}
            tx.training.add_event(job.id, "retry", lost, now)
            _offer(tx, replace(job, state=JobState.QUEUED, result=None), now)
            tx.training.add_event(job.id, "state", {"state": JobState.QUEUED.value}, now)

    def published(self, held: Held, cid: Cid) -> None:
        now = self._clock()
        with self._holding(held) as (tx, job):
            tx.training.add_event(job.id, "published", {"cid": cid}, now)
            _finish(tx, replace(job, cid=cid), JobState.SUCCEEDED, now)

    def failed(self, held: Held, error: Mapping[str, Any]) -> None:
        """End a job that no other attempt would bring further."""
        with self._holding(held) as (tx, job):
            _fail(tx, job, error, self._clock())

    def offer_lapsed(self, limit: int = 100) -> int:
        """Offer every job again whose worker died or whose message was lost; how many."""
        now = self._clock()
        with self._begin() as tx:
            jobs = [tx.training.locked(job_id) for job_id in tx.training.lapsed(now, limit)]
            lapsed = [job for job in jobs if job and not job.is_over and job.lease.until <= now]
            for job in lapsed:
                since = job.lease.heartbeat_at if job.lease.owner is None else None
                _offer(tx, job, now, attempt=job.lease.attempt, since=since)
        return len(lapsed)

    @contextmanager
    def _holding(self, held: Held) -> Iterator[tuple[TrainingTx, TrainingJob]]:
        with self._begin() as tx:
            job = tx.training.locked(held.job.id)
            if job is None or job.is_over or job.lease.owner != held.owner:
                raise LeaseLost(f"another worker has {held.job.id}, or it was cancelled", param="job_id")
            yield tx, job


def _check_snapshot(tx: TrainingTx, snapshot_id: SnapshotId) -> None:
    snapshot = tx.chain.snapshot(snapshot_id)
    if snapshot is None:
        raise NotFound(f"no snapshot {snapshot_id}, or it is not confirmed yet", param="snapshot_id")
    if not snapshot.accepted:
        raise EmptySnapshot(f"no contribution of snapshot {snapshot_id} was accepted", param="snapshot_id")


def _known(job: TrainingJob | None, job_id: str) -> TrainingJob:
    if job is None:
        raise NotFound(f"no training job {job_id}", param="job_id")
    return job


def _offer(
    tx: TrainingTx, job: TrainingJob, now: datetime, attempt: int = 0, since: datetime | None = None
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


def _finish(tx: TrainingTx, job: TrainingJob, state: JobState, now: datetime) -> TrainingJob:
    job = replace(job, state=state, finished_at=now, lease=Lease(None, now))
    tx.training.save(job)
    tx.training.add_event(job.id, "state", {"state": state.value}, now)
    return job


def _given_up(step: Step) -> dict[str, Any]:
    return {"code": "given_up", "message": f"the step {step.value!r} was begun {MAX_ATTEMPTS} times in vain"}


def _fail(tx: TrainingTx, job: TrainingJob, error: Mapping[str, Any], now: datetime) -> None:
    tx.training.add_event(job.id, "failed", error, now)
    _finish(tx, replace(job, error=error), JobState.FAILED, now)
