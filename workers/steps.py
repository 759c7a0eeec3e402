"""Runs the steps of fine-tuning jobs. A step may be killed at any point and run again."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backend.disk.space import LEAST_FREE_BYTES, DiskSpace
from backend.domain.content import ContentCorrupt, ContentMissing
from backend.domain.errors import Conflict, DiskFull, DomainError, NotFound, Unavailable
from backend.domain.training import Step, TrainingResult
from backend.domain.training_payment import charged_tokens
from backend.metrics import CHARGED_TOKENS, CHARGED_UNITS, TASKS
from backend.services.contribute.snapshot import ContributionWithdrawn
from backend.services.train.leases import MAX_OUTAGE, MAX_ROWS_WAIT, LeaseLost
from backend.services.train.parents import merge_snapshots, reject_parent
from workers.heartbeat import Heartbeat
from workers.imported import delete_files, fetch_files
from workers.inspection import InspectionFailed
from workers.sweeps import run_sweeps
from workers.training.dataset import sha256_of, write_rows
from workers.training.disk_full import disk_full_error
from workers.training.folders import home_id, remove_incomplete
from workers.training.spec import (
    ADAPTER,
    CHECKPOINTS,
    ROWS_FILE,
    SPEC_FILE,
    ImportSpec,
    TrainingSpec,
    has_adapter,
)
from workers.training.supervise import supervise, training_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import timedelta

    from backend.domain.ids import Hash32, SnapshotId, VersionId
    from backend.domain.training import Dataset, ImportedAdapter, TrainingJob
    from backend.ports.training import SnapshotRows
    from backend.services.contribute.transfers import Transfers
    from backend.services.train.leases import LeasedJob, Leases
    from backend.services.train.parents import Parent
    from backend.services.train.publication import Publication
    from inference.config import DType
    from workers.screening import JobScreening

log = logging.getLogger(__name__)


class DatasetChanged(Conflict):
    """The rows of a snapshot differ from those that the job was validated with."""


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """`home` has one folder per job. `base_folders`: by the digest of the base model, the first one for jobs
    that name none; an empty folder is the bundled base model, cached in `model_cache`. `transfers` has the
    uploaded files of imported adapters.
    """

    home: Path
    model_cache: Path
    num_threads: int
    base_folders: Mapping[Hash32, str]
    command: Callable[[Path], Sequence[str]] = field(default=training_command)
    fetch_parent: Callable[[VersionId], Parent] = field(default=reject_parent)
    transfers: Transfers = field(kw_only=True)
    arithmetic: DType = field(default="float32", kw_only=True)
    """That of attribution indices."""
    sweeps: Sequence[Callable[[], object]] = field(default=(), kw_only=True)
    """Run before each step."""


class Steps:
    """Called by tasks with a job's id. A step that is done or runs elsewhere is skipped."""

    def __init__(
        self,
        leases: Leases,
        snapshots: SnapshotRows,
        screening: JobScreening,
        publication: Publication,
        options: TrainerOptions,
    ) -> None:
        self._leases = leases
        self._snapshots = snapshots
        self._screening = screening
        self._publication = publication
        self._options = options
        self._stopping = threading.Event()
        self._home = home_id(options.home)
        self._has_job_failed = False
        """Whether the process of the running step reported that its job fails."""

    def stop(self) -> None:
        """Release running work, which is resumed from its last checkpoint."""
        self._stopping.set()

    def validate(self, job_id: str) -> None:
        """Write the snapshot's rows to the job's folder, or validate an imported adapter."""
        with self._lease(job_id, Step.VALIDATE) as current:
            if current is None:
                return
            leased, heartbeat = current
            if leased.job.imported is not None:
                self._validate_import(leased, leased.job.imported, heartbeat)
                return
            self._spec(leased.job)  # what cannot be read fails the job now, before it is queued
            self._leases.complete_validation(leased, self._write_rows(leased.job))

    def train(self, job_id: str) -> None:
        with self._lease(job_id, Step.TRAIN) as current:
            if current is not None:
                self._space.require()
                self._train(*current)

    def publish(self, job_id: str) -> None:
        """Screen the adapter and publish its folder in the block store. It is deleted if the job ends
        otherwise: it was cancelled, denied or not paid for, of which no takedown knows.
        """
        with self._lease(job_id, Step.PUBLISH) as current:
            if current is not None:
                self._publish(current[0])
        try:
            self._publication.discard(job_id)
        except (DomainError, OSError) as error:  # the relay deletes it later
            log.warning("the folder of %s is not deleted yet: %s", job_id, error)

    def run(self, step: Step, job_id: str) -> None:
        if self._stopping.is_set():  # Celery takes a last message then; the job is offered again
            return
        run_sweeps(self._options.sweeps)
        # Publication needs space for a copy alone, and frees the job's folder. A job whose training began
        # here waits for space here, for a limited time.
        belongs_here = step is Step.PUBLISH or (self._options.home / job_id / SPEC_FILE).exists()
        if self._space.left < 0 and not belongs_here:
            log.warning("%s is left to other workers: the disk is nearly full", job_id)
            return
        {Step.VALIDATE: self.validate, Step.TRAIN: self.train, Step.PUBLISH: self.publish}[step](job_id)

    def publish_results(self, *, are_imported: bool) -> None:
        """Publish the results in this worker's home, of jobs or of imports. The messages about them may go to
        workers of other homes, which leave them alone.
        """
        for job_id in self._leases.unpublished(are_imported=are_imported):
            if not self._stopping.is_set():
                self.publish(job_id)

    @property
    def _space(self) -> DiskSpace:
        return DiskSpace(self._options.home, LEAST_FREE_BYTES)

    def _publish(self, leased: LeasedJob) -> None:
        folder = self._folder(leased.job)
        result = leased.job.result
        if leased.is_result_elsewhere or result is None or not has_adapter(folder, result.adapter_digest):
            self._leases.retry_without_adapter(leased)
            return
        self._base_folder(leased.job)  # fails the job now
        report = self._screening.report(leased.job, folder)
        self._leases.record_event(leased, "screening", {"message": report.message, **asdict(report)})
        if leased.job.imported is not None:
            self._options.transfers.space.require()
        cid = self._publication.cid_of(folder / ADAPTER)
        self._leases.begin_publication(leased, cid)
        if leased.job.cid not in {None, cid}:  # of a result that was lost
            self._publication.discard_folder(leased.job.cid)
        self._publication.publish(folder / ADAPTER)
        _count_charge(self._leases.complete_publication(leased, cid))
        if leased.job.imported is not None:  # again: a worker may have been killed after validation
            delete_files(self._options.transfers, leased.job.creator, leased.job.imported)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    def _train(self, leased: LeasedJob, heartbeat: Heartbeat) -> None:
        folder = self._folder(leased.job)
        if not _has_begun(leased.job, folder) and self._write_rows(leased.job) != leased.job.dataset:
            raise DatasetChanged(
                f"the rows of snapshot {leased.job.snapshot_id} have changed since validation"
            )
        spec = self._spec(leased.job)
        spec.save(folder)
        parent = Path(spec.parent_folder) if spec.parent_folder else None
        self._run_process(leased, heartbeat, self._leases.complete_training, parent)

    def _validate_import(self, leased: LeasedJob, imported: ImportedAdapter, heartbeat: Heartbeat) -> None:
        options, creator = self._options, leased.job.creator
        folder = self._folder(leased.job)
        fetch_files(options.transfers, creator, imported, folder)
        model_cache = str(options.model_cache.resolve())
        spec = ImportSpec(
            creator,
            imported.licence,
            model_cache,
            self._base_folder(leased.job),
            options.num_threads,
            imported.about,
        )
        spec.save(folder)
        if self._run_process(leased, heartbeat, self._leases.complete_import):
            delete_files(options.transfers, creator, imported)

    def _run_process(
        self,
        leased: LeasedJob,
        heartbeat: Heartbeat,
        on_done: Callable[[LeasedJob, TrainingResult], None],
        parent: Path | None = None,
    ) -> bool:
        """Run the training process; whether it succeeded, in which case `on_done` was called."""
        folder = self._folder(leased.job)
        last = supervise(
            self._options.command(folder),
            folder,
            lambda: not (heartbeat.is_lost or self._stopping.is_set()),
            lambda event: self._leases.record_event(leased, event.kind, event.data),
            adapter_folder=parent,
        )
        if last is None:
            self._leases.release(leased)
        elif last.kind == "failed" and last.data["code"] == "disk_full":
            raise DiskFull(last.data["message"])
        elif last.kind == "failed":
            self._has_job_failed = True
            self._leases.fail(leased, last.data)
        else:
            on_done(leased, TrainingResult(**last.data))
            return True
        return False

    def _write_rows(self, job: TrainingJob) -> Dataset:
        return write_rows(self._snapshots, job.snapshot_id, self._folder(job) / ROWS_FILE)

    def _parent(self, job: TrainingJob) -> Parent | None:
        return None if job.config.parent is None else self._options.fetch_parent(job.config.parent)

    def _spec(self, job: TrainingJob) -> TrainingSpec:
        parent = self._parent(job)
        return TrainingSpec(
            job_id=job.id,
            config=job.config,
            snapshots=_snapshots(job, parent),
            licences=tuple(self._snapshots.licences(job.snapshot_id)),
            model_cache=str(self._options.model_cache.resolve()),
            base_folder=self._base_folder(job),
            num_threads=self._options.num_threads,
            parent_folder="" if parent is None else str(parent.folder.resolve()),
            parent_base="" if parent is None else parent.record.base_model,
            arithmetic=self._options.arithmetic,
        )

    def _base_folder(self, job: TrainingJob) -> str:
        """Errors: `NotFound`."""
        folders = self._options.base_folders
        if job.base is None:
            return next(iter(folders.values()))
        if job.base not in folders:
            raise NotFound(f"this operator does not serve the base model {job.base} any more", param="model")
        return folders[job.base]

    def _folder(self, job: TrainingJob) -> Path:
        folder = self._options.home / job.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder.resolve()

    @contextmanager
    def _lease(self, job_id: str, step: Step) -> Iterator[tuple[LeasedJob, Heartbeat] | None]:
        """Hold the job's lease. A `DomainError` fails the job. An outage is waited for, and other errors are
        retried.
        """
        leased = self._leases.acquire(job_id, step, self._home)
        if leased is None:
            yield None
            return
        started, outcome, self._has_job_failed = time.monotonic(), "failed", False
        try:
            with Heartbeat(self._leases, leased) as heartbeat:
                yield leased, heartbeat
            outcome = "job_failed" if self._has_job_failed else "ended"
        except LeaseLost:
            outcome = "lost"
            log.info("lost the lease of %s", job_id)
        except Exception as error:  # the job's record must have it, and the worker must continue
            failure = disk_full_error(error, self._options.home / job_id) or error
            limit = _outage_limit(failure, leased)
            if limit is None:
                log.exception("step %s of %s failed", step, job_id)
            else:
                outcome = "waits"
                log.warning("step %s of %s waits: %s", step, job_id, failure)
            self._record_failure(leased, failure, limit)
        finally:
            TASKS.labels(step.value, outcome).observe(time.monotonic() - started)

    def _record_failure(self, leased: LeasedJob, failure: Exception, limit: timedelta | None) -> None:
        """`limit`: of the time that the step waits for the end of an outage; None if there is none."""
        try:
            if isinstance(failure, DiskFull):
                remove_incomplete(self._options.home / leased.job.id)
            if limit is not None:
                self._leases.wait(leased, str(failure), limit)
            elif isinstance(failure, DomainError) and not isinstance(failure, Unavailable):
                self._leases.fail(
                    leased, {"code": failure.code, "message": failure.message, **failure.details}
                )
            else:
                self._leases.release(leased, f"{type(failure).__name__}: {failure}")
        except LeaseLost:
            log.info("lost the lease of %s", leased.job.id)


def _has_begun(job: TrainingJob, folder: Path) -> bool:
    """Whether training has begun in this folder, which still has the job's rows. It goes on with them: a
    restart does not end a job whose contributions were withdrawn meanwhile.
    """
    rows = folder / ROWS_FILE
    if job.dataset is None or not (folder / SPEC_FILE).exists() or not rows.exists():
        return False
    return sha256_of(rows) == job.dataset.digest


def _outage_limit(error: Exception, leased: LeasedJob) -> timedelta | None:
    """How long the step waits if a part of the installation is away, or a disk full; None for other errors.

    Validation has read all content, so what a later step does not find, or finds damaged, is the store's
    fault. The rows of a job with a checkpoint are in the folder of the worker that began it, which goes on
    after a withdrawal.
    """
    if isinstance(error, ContributionWithdrawn):
        return MAX_ROWS_WAIT if leased.furthest_step else None
    if isinstance(error, InspectionFailed):  # such an adapter may kill each process
        return None
    is_validated = leased.job.step is not Step.VALIDATE
    is_away = is_validated and isinstance(error, Unavailable | ContentMissing | ContentCorrupt)
    return MAX_OUTAGE if is_away or isinstance(error, DiskFull) else None


def _count_charge(job: TrainingJob) -> None:
    """Count the tokens and units of the job's receipt."""
    num_tokens = charged_tokens(job)
    if job.payment is not None and num_tokens is not None:
        CHARGED_TOKENS.labels("trained").inc(num_tokens)
        CHARGED_UNITS.inc(num_tokens * job.payment.price)


def _snapshots(job: TrainingJob, parent: Parent | None) -> tuple[SnapshotId, ...]:
    """The job's snapshot and those of its parent."""
    return (job.snapshot_id,) if parent is None else merge_snapshots(job.snapshot_id, parent.record)
