"""Repository of fine-tuning jobs and their events."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import aliased

from backend.db.paging import newest_first
from backend.db.session import insert_if_absent
from backend.db.tables.chain import VersionRow
from backend.db.tables.training import TrainingEventRow, TrainingJobRow
from backend.domain.content import cid_digest
from backend.domain.errors import NotFound
from backend.domain.ids import Account, Cid, Hash32, SnapshotId, VersionId
from backend.domain.training import (
    Dataset,
    ImportedAdapter,
    JobEvent,
    JobState,
    Lease,
    Payment,
    TrainingConfig,
    TrainingJob,
    TrainingResult,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

_OPEN = [JobState.VALIDATING, JobState.QUEUED, JobState.RUNNING]
_UNSUCCESSFUL = [JobState.FAILED, JobState.CANCELLED]


class TrainingStore:
    """Fine-tuning jobs and their events."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, job: TrainingJob) -> bool:
        """Add the job unless its id exists. Whether it did; a concurrent transaction with the id is waited
        for.
        """
        return insert_if_absent(self._session, TrainingJobRow, id=job.id, **_columns(job))

    def get(self, job_id: str) -> TrainingJob | None:
        row = self._session.get(TrainingJobRow, job_id)
        return None if row is None else _job(row)

    def locked(self, job_id: str) -> TrainingJob | None:
        """The job, locked against changes until this transaction ends."""
        row = self._session.get(TrainingJobRow, job_id, with_for_update=True, populate_existing=True)
        return None if row is None else _job(row)

    def save(self, job: TrainingJob) -> None:
        """Save a locked job."""
        row = self._session.get(TrainingJobRow, job.id)
        if row is None:
            raise NotFound(f"no training job {job.id}", param="job_id")
        for name, value in _columns(job).items():
            setattr(row, name, value)
        self._session.flush()

    def find(
        self, creator: Account | None, limit: int, after: str | None = None, *, are_imported: bool = False
    ) -> list[TrainingJob]:
        """Jobs that train, or those of imported adapters. Newest first, those that follow job `after`.

        Errors: `InvalidInput` if `after` is not among them.
        """
        query = select(TrainingJobRow).where(TrainingJobRow.imported_adapter.is_not(None) == are_imported)
        if creator is not None:
            query = query.where(TrainingJobRow.creator == creator)
        return [_job(row) for row in newest_first(self._session, query, TrainingJobRow, after, limit)]

    def lapsed(self, now: datetime, limit: int) -> list[str]:
        """Ids of unfinished jobs whose lease has expired, the longest expired first."""
        query = select(TrainingJobRow.id).where(
            TrainingJobRow.state.in_(_OPEN), TrainingJobRow.lease_until <= now
        )
        return list(self._session.scalars(query.order_by(TrainingJobRow.lease_until).limit(limit)))

    def unpublished(self, *, are_imported: bool) -> list[str]:
        """Ids of unfinished jobs that have a result, or of such imports, the oldest first."""
        row = TrainingJobRow
        query = select(row.id).where(row.state == JobState.RUNNING, row.adapter_digest.is_not(None))
        query = query.where(row.imported_adapter.is_not(None) == are_imported)
        return list(self._session.scalars(query.order_by(row.created_at, row.id)))

    def of_adapters(self, digests: Collection[Hash32]) -> dict[Hash32, list[TrainingJob]]:
        """Jobs that succeeded, by the digest of their adapter; of each the oldest first."""
        row = TrainingJobRow
        query = select(row).where(row.adapter_digest.in_(digests), row.state == JobState.SUCCEEDED)
        found: dict[Hash32, list[TrainingJob]] = {}
        for job in map(_job, self._session.scalars(query.order_by(row.created_at, row.id))):
            if job.result is not None:
                found.setdefault(job.result.adapter_digest, []).append(job)
        return found

    def folders_of(self, adapter: Hash32) -> set[Cid]:
        """Folders in which jobs have stored the adapter, each with its own card."""
        row = TrainingJobRow
        query = select(row.cid).where(row.adapter_digest == adapter, row.cid.is_not(None))
        return {Cid(cid) for cid in self._session.scalars(query) if cid is not None}

    def registrations(self) -> list[tuple[str, Cid, VersionId, Hash32]]:
        """Published jobs without a version, each with the versions of its creator that have its weights: job,
        its folder, version, digest of that version's folder. Earlier versions come first.
        """
        job, version = TrainingJobRow, VersionRow
        has_its_weights = (version.creator == job.creator) & (version.adapter_digest == job.adapter_digest)
        query = (
            select(job.id, job.cid, version.id, version.record["cidDigest"].as_string())
            .join(version, has_its_weights)
            .where(job.state == JobState.SUCCEEDED, job.version_id.is_(None), job.cid.is_not(None))
            .order_by(version.block_number, version.log_index)
        )
        found = self._session.execute(query)
        return [
            (job_id, Cid(cid or ""), VersionId(Hash32(version_id)), Hash32(digest))
            for job_id, cid, version_id, digest in found
        ]

    def is_needed(self, cid: Cid) -> bool:
        """Whether a version names the folder, or a job has it that succeeded or may publish it."""
        row = TrainingJobRow
        needs = exists().where(row.cid == cid, row.state.not_in(_UNSUCCESSFUL))
        return self.is_named(cid) or bool(self._session.scalar(select(needs)))

    def is_named(self, cid: Cid) -> bool:
        """Whether a version names the folder."""
        names = exists().where(VersionRow.record["cidDigest"].as_string() == cid_digest(cid))
        return bool(self._session.scalar(select(names)))

    def unneeded(self, before: datetime) -> list[TrainingJob]:
        """Jobs with a folder that ended before then, the oldest first: those without success, and imports
        without a version. Without those whose folder another job needs: one that has not ended, a later
        import, or one that trained.
        """
        row, other = TrainingJobRow, aliased(TrainingJobRow)
        is_recent = other.finished_at.is_(None) | (other.finished_at >= before)
        needs = other.state.not_in(_UNSUCCESSFUL) & (is_recent | other.imported_adapter.is_(None))
        is_needed = select(other.id).where(other.cid == row.cid, needs).exists()
        is_import = row.imported_adapter.is_not(None) & (row.state == JobState.SUCCEEDED)
        query = select(row).where(is_import | row.state.in_(_UNSUCCESSFUL), row.version_id.is_(None))
        query = query.where(row.cid.is_not(None), row.finished_at < before, ~is_needed)
        return [_job(each) for each in self._session.scalars(query.order_by(row.finished_at))]

    def add_event(self, job_id: str, kind: str, data: Mapping[str, Any], at: datetime) -> JobEvent:
        # The writer holds the lock of the job's row, so the number is unique.
        last = self._session.scalar(select(func.max(TrainingEventRow.seq)).filter_by(job_id=job_id))
        row = TrainingEventRow(job_id=job_id, seq=(last or 0) + 1, at=at, kind=kind, data=dict(data))
        self._session.add(row)
        self._session.flush()
        return _event(row)

    def events(
        self, job_id: str, after: int, limit: int | None, kinds: Collection[str] | None = None
    ) -> list[JobEvent]:
        """Events with `seq` above `after`, in order."""
        query = select(TrainingEventRow).filter_by(job_id=job_id).where(TrainingEventRow.seq > after)
        if kinds is not None:
            query = query.where(TrainingEventRow.kind.in_(kinds))
        rows = self._session.scalars(query.order_by(TrainingEventRow.seq).limit(limit))
        return [_event(row) for row in rows]

    def newest_event(self, job_id: str, kinds: Collection[str]) -> JobEvent | None:
        """The job's last event of these kinds."""
        row = TrainingEventRow
        query = select(row).where(row.job_id == job_id, row.kind.in_(kinds))
        found = self._session.scalar(query.order_by(row.seq.desc()).limit(1))
        return None if found is None else _event(found)

    def checkpoints(self, job_id: str, limit: int, after_step: int | None = None) -> list[JobEvent]:
        """Checkpoint events, newest first; those that follow the checkpoint of a step. Errors: `NotFound`."""
        row = TrainingEventRow
        query = select(row).where(row.job_id == job_id, row.kind == "checkpoint")
        if after_step is not None:
            # A worker without the files of a killed one reaches its steps again. A list ends all the same.
            of_step = query.where(row.data["step"].as_integer() == after_step)
            first = self._session.scalar(of_step.with_only_columns(func.min(row.seq)))
            if first is None:
                raise NotFound(f"{job_id} has no checkpoint of step {after_step}", param="after")
            query = query.where(row.seq < first)
        return [_event(found) for found in self._session.scalars(query.order_by(row.seq.desc()).limit(limit))]

    def furthest_step(self, job_id: str) -> int:
        """Of the job's checkpoints; 0 without one."""
        row = TrainingEventRow
        steps = select(func.max(row.data["step"].as_integer()))
        return self._session.scalar(steps.where(row.job_id == job_id, row.kind == "checkpoint")) or 0

    def sampled_events(self, job_id: str, kind: str, count: int) -> list[JobEvent]:
        """About `count` events of a kind, evenly distributed, and the last one; in order."""
        row = TrainingEventRow
        of_kind = (row.job_id == job_id, row.kind == kind)
        num, last = self._session.execute(select(func.count(), func.max(row.seq)).where(*of_kind)).one()
        chosen = or_(row.seq % max(1, num // count) == 0, row.seq == last)
        rows = self._session.scalars(select(row).where(*of_kind, chosen).order_by(row.seq))
        return [_event(found) for found in rows]


def _columns(job: TrainingJob) -> dict[str, Any]:
    result = job.result
    return {
        "creator": job.creator,
        "snapshot_id": job.snapshot_id,
        "config": asdict(job.config),
        "state": job.state.value,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "lease_owner": job.lease.owner,
        "lease_until": job.lease.until,
        "heartbeat_at": job.lease.heartbeat_at,
        "attempt": job.lease.attempt,
        "dataset": None if job.dataset is None else asdict(job.dataset),
        "adapter_digest": None if result is None else result.adapter_digest,
        "base_model": job.base if result is None else result.base_model,
        "metrics": None if result is None else dict(result.metrics),
        "cid": job.cid,
        "version_id": job.version_id,
        "error": None if job.error is None else dict(job.error),
        "imported_adapter": None if job.imported is None else asdict(job.imported),
        "payment": None if job.payment is None else asdict(job.payment),
    }


def _job(row: TrainingJobRow) -> TrainingJob:
    return TrainingJob(
        id=row.id,
        creator=Account(row.creator),
        snapshot_id=SnapshotId(Hash32(row.snapshot_id)),
        config=TrainingConfig(**{**row.config, "targets": tuple(row.config["targets"])}),
        state=JobState(row.state),
        created_at=row.created_at,
        lease=Lease(row.lease_owner, row.lease_until, row.heartbeat_at, row.attempt),
        finished_at=row.finished_at,
        dataset=None if row.dataset is None else Dataset(**row.dataset),
        result=_result(row),
        cid=None if row.cid is None else Cid(row.cid),
        version_id=None if row.version_id is None else VersionId(Hash32(row.version_id)),
        error=row.error,
        imported=None if row.imported_adapter is None else ImportedAdapter.load(row.imported_adapter),
        payment=None if row.payment is None else Payment(**row.payment),
        base=None if row.base_model is None else Hash32(row.base_model),
    )


def _result(row: TrainingJobRow) -> TrainingResult | None:
    if row.adapter_digest is None or row.base_model is None or row.metrics is None:
        return None
    return TrainingResult(Hash32(row.adapter_digest), Hash32(row.base_model), row.metrics)


def _event(row: TrainingEventRow) -> JobEvent:
    return JobEvent(row.job_id, row.seq, row.at, row.kind, row.data)
