"""Creates, lists and cancels fine-tuning jobs."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict, Forbidden, NotFound
from backend.domain.idempotency import HEADER, IdempotencyKeyReused
from backend.domain.training import (
    EmptySnapshot,
    JobState,
    Lease,
    TrainingJob,
)
from backend.services.market.denials import check_trainable
from backend.services.train.options import parse_config
from backend.services.train.parents import check_parent
from backend.services.train.progress import Progress, read_progress
from backend.services.train.transitions import enqueue, finish, require_job, utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account, Hash32, SnapshotId
    from backend.domain.training import JobEvent
    from backend.services.train.payments import Payments
    from backend.services.train.transitions import Clock


class Training:
    """Fine-tuning jobs, as their creators use them."""

    def __init__(self, db: Database, payments: Payments, clock: Clock = utc_now) -> None:
        self._db = db
        self._payments = payments
        self._clock = clock

    def create(
        self,
        creator: Account,
        snapshot_id: SnapshotId,
        config: Mapping[str, Any],
        key: str | None = None,
        base: Hash32 | None = None,
    ) -> TrainingJob:
        """Queue a job and reserve its maximum charge on the creator's channel.

        `key`: the creator's name of this request. Repeated, it returns the job that the first one created, as
        it is now; the id is derived from it, so that also requests at the same time create one job. `base`:
        digest of the base model; None: as `Payments.base_of`.

        Errors: `InvalidConfig`, `NotFound` for the snapshot, `EmptySnapshot`, `ContentWithheld`,
        `IdempotencyKeyReused` if the key's job is another one, those of `check_parent`, `Payments.base_of`
        and `Payments.reserve`.
        """
        parsed = parse_config(config)
        now = self._clock()
        job = TrainingJob(
            id=f"ftjob-{uuid.uuid4().hex if key is None else _digest(creator, key)}",
            creator=creator,
            snapshot_id=snapshot_id,
            config=parsed,
            state=JobState.VALIDATING,
            created_at=now,
            lease=Lease(None, now),
        )
        with self._db.begin() as tx:
            base = self._payments.base_of(tx.chain, parsed, base)
            job = replace(job, base=base)
            if not tx.training.add(job):
                return _repeated(require_job(tx.training.get(job.id), job.id), job)
            check_snapshot(tx, snapshot_id)
            if parsed.parent is not None:
                check_parent(tx, snapshot_id, parsed.parent, base)
            job = self._payments.reserve(tx, job, now)
            job = enqueue(tx, job, now)
            tx.training.add_event(job.id, "state", {"state": job.state.value}, now)
        return job

    def get(self, job_id: str) -> TrainingJob:
        """Errors: `NotFound`."""
        with self._db.read() as tx:
            return require_job(tx.training.get(job_id), job_id)

    def list(
        self, creator: Account | None = None, limit: int = 50, after: str | None = None
    ) -> Sequence[TrainingJob]:
        """Jobs after the job `after`, newest first. Errors: `InvalidInput` if there is no such job."""
        with self._db.read() as tx:
            return tx.training.find(creator, limit, after)

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> Sequence[JobEvent]:
        """Events after the one numbered `after`, oldest first. Errors: `NotFound`."""
        with self._db.read() as tx:
            require_job(tx.training.get(job_id), job_id)
            return tx.training.events(job_id, after, limit)

    def checkpoints(self, job_id: str, limit: int, after_step: int | None = None) -> Sequence[JobEvent]:
        """The job's checkpoint events, newest first; those that follow the checkpoint of a step.

        Errors: `NotFound`.
        """
        with self._db.read() as tx:
            require_job(tx.training.get(job_id), job_id)
            return tx.training.checkpoints(job_id, limit, after_step)

    def progress(self, job_id: str) -> Progress:
        """Errors: `NotFound`."""
        with self._db.read() as tx:
            require_job(tx.training.get(job_id), job_id)
            return read_progress(tx, job_id)

    def cancel(self, job_id: str, account: Account) -> TrainingJob:
        """Cancel a job; its worker stops within a heartbeat. Idempotent.

        Errors: `NotFound`, `Forbidden` for other accounts, `Conflict` once it succeeded or failed.
        """
        now = self._clock()
        with self._db.begin() as tx:
            job = require_job(tx.training.locked(job_id), job_id)
            if job.creator != account:
                raise Forbidden(f"only the creator of {job_id} may cancel it", param="job_id")
            if job.state is JobState.CANCELLED:
                return job
            if job.is_over:
                raise Conflict(f"{job_id} has already {job.state.value}", param="job_id")
            return finish(tx, job, JobState.CANCELLED, now)


def _digest(creator: Account, key: str) -> str:
    return hashlib.sha256(f"{creator} {key}".encode()).hexdigest()[:32]


def _repeated(known: TrainingJob, wanted: TrainingJob) -> TrainingJob:
    if (known.snapshot_id, known.config, known.base) != (wanted.snapshot_id, wanted.config, wanted.base):
        raise IdempotencyKeyReused(
            f"The key was used for {known.id}, which has another snapshot or other options; use a new key.",
            param=HEADER,
        )
    return known


def check_snapshot(tx: UnitOfWork, snapshot_id: SnapshotId) -> None:
    snapshot = tx.chain.snapshot(snapshot_id)
    if snapshot is None:
        raise NotFound(f"no snapshot {snapshot_id}, or it is not confirmed yet", param="snapshot_id")
    if not snapshot.accepted:
        raise EmptySnapshot(f"no contribution of snapshot {snapshot_id} was accepted", param="snapshot_id")
    check_trainable(tx, snapshot)
