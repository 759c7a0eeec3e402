"""The steps of a fine-tuning job. Each may be killed anywhere and begun again; the lease says who does."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, DomainError, Unavailable
from backend.domain.training import Step, TrainingResult
from backend.metrics import CHARGED_TOKENS, CHARGED_UNITS, TASKS
from backend.services.train.leases import LeaseLost
from backend.services.train.parents import joined, no_parents
from workers.heartbeat import Heartbeat
from workers.imported import bring_files, drop_files
from workers.training.dataset import write_rows
from workers.training.disk_full import as_disk_full
from workers.training.spec import ADAPTER, CHECKPOINTS, ROWS_FILE, ImportSpec, TrainingSpec
from workers.training.supervise import supervise, training_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from backend.domain.ids import SnapshotId, VersionId
    from backend.domain.training import Dataset, ImportedAdapter, TrainingJob
    from backend.ports.training import SnapshotRows
    from backend.services.contribute.transfers import Transfers
    from backend.services.train.leases import Held, Leases
    from backend.services.train.parents import Parent
    from backend.services.train.publication import Publication
    from workers.screening import Gatekeeper

log = logging.getLogger(__name__)


class DatasetChanged(Conflict):
    """The rows of a snapshot are not those that the job was validated with."""


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """`home` has one folder a job. `base_folder` empty: the bundled base model, kept in `model_cache`.
    `transfers`: where the API keeps what creators bring.
    """

    home: Path
    model_cache: Path
    num_threads: int
    base_folder: str = ""
    command: Callable[[Path], Sequence[str]] = field(default=training_command)
    bring_parent: Callable[[VersionId], Parent] = field(default=no_parents)
    transfers: Transfers = field(kw_only=True)


class Steps:
    """What tasks call, with an id and nothing else. A step that is done, or done elsewhere, is no error."""

    def __init__(
        self,
        leases: Leases,
        snapshots: SnapshotRows,
        gatekeeper: Gatekeeper,
        publication: Publication,
        options: TrainerOptions,
    ) -> None:
        self._leases = leases
        self._snapshots = snapshots
        self._gatekeeper = gatekeeper
        self._publication = publication
        self._options = options
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Give running work back, to be continued from its last checkpoint."""
        self._stopping.set()

    def validate(self, job_id: str) -> None:
        """Read the snapshot's rows into the job's folder, or look at an adapter from elsewhere."""
        with self._taken(job_id, Step.VALIDATE) as taken:
            if taken is None:
                return
            held, heartbeat = taken
            if held.job.imported is not None:
                self._accept(held, held.job.imported, heartbeat)
                return
            self._parent(held.job)  # what cannot be had is told before anybody waits for it
            self._leases.validated(held, self._write_rows(held.job))

    def train(self, job_id: str) -> None:
        with self._taken(job_id, Step.TRAIN) as taken:
            if taken is not None:
                self._train(*taken)

    def publish(self, job_id: str) -> None:
        """Say what the adapter is like, and put its folder where everybody can fetch it by its CID."""
        with self._taken(job_id, Step.PUBLISH) as taken:
            if taken is not None:
                self._publish(taken[0])

    def run(self, step: Step, job_id: str) -> None:
        {Step.VALIDATE: self.validate, Step.TRAIN: self.train, Step.PUBLISH: self.publish}[step](job_id)

    def _publish(self, held: Held) -> None:
        folder = self._folder(held.job)
        if not (folder / ADAPTER).is_dir():
            self._leases.without_adapter(held)
            return
        report = self._gatekeeper.report(held.job, folder)
        self._leases.report(held, "gate", {"message": report.message, **asdict(report)})
        _count(self._leases.published(held, self._publication.publish(folder / ADAPTER)))
        if held.job.imported is not None:  # again, for a worker that was killed right behind accepting them
            drop_files(self._options.transfers, held.job.creator, held.job.imported)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    def _train(self, held: Held, heartbeat: Heartbeat) -> None:
        folder = self._folder(held.job)
        dataset = self._write_rows(held.job)
        if dataset != held.job.dataset:
            raise DatasetChanged(f"the rows of snapshot {held.job.snapshot_id} have changed since validation")
        self._spec(held.job).save(folder)
        self._run_process(held, heartbeat, self._leases.trained)

    def _accept(self, held: Held, foreign: ImportedAdapter, heartbeat: Heartbeat) -> None:
        options, creator = self._options, held.job.creator
        folder = self._folder(held.job)
        bring_files(options.transfers, creator, foreign, folder)
        model_cache = str(options.model_cache.resolve())
        spec = ImportSpec(creator, foreign.licence, model_cache, options.base_folder, options.num_threads)
        spec.save(folder)
        if self._run_process(held, heartbeat, self._leases.accepted):
            drop_files(options.transfers, creator, foreign)

    def _run_process(
        self, held: Held, heartbeat: Heartbeat, end: Callable[[Held, TrainingResult], None]
    ) -> bool:
        """Whether it came to its `end`."""
        folder = self._folder(held.job)
        last = supervise(
            self._options.command(folder),
            folder,
            lambda: not (heartbeat.is_lost or self._stopping.is_set()),
            lambda event: self._leases.report(held, event.kind, event.data),
        )
        if last is None:
            self._leases.release(held)
        elif last.kind == "failed":
            self._leases.failed(held, last.data)
        else:
            end(held, TrainingResult(**last.data))
            return True
        return False

    def _write_rows(self, job: TrainingJob) -> Dataset:
        return write_rows(self._snapshots, job.snapshot_id, self._folder(job) / ROWS_FILE)

    def _parent(self, job: TrainingJob) -> Parent | None:
        return None if job.config.parent is None else self._options.bring_parent(job.config.parent)

    def _spec(self, job: TrainingJob) -> TrainingSpec:
        parent = self._parent(job)
        return TrainingSpec(
            job_id=job.id,
            config=job.config,
            snapshots=_named(job, parent),
            licences=tuple(self._snapshots.licences(job.snapshot_id)),
            model_cache=str(self._options.model_cache.resolve()),
            base_folder=self._options.base_folder,
            num_threads=self._options.num_threads,
            parent_folder="" if parent is None else str(parent.folder.resolve()),
            parent_base="" if parent is None else parent.record.base_model,
        )

    def _folder(self, job: TrainingJob) -> Path:
        folder = self._options.home / job.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder.resolve()

    @contextmanager
    def _taken(self, job_id: str, step: Step) -> Iterator[tuple[Held, Heartbeat] | None]:
        """Hold the lease for the block. What is wrong with the job ends it; all else is tried again."""
        held = self._leases.take(job_id, step)
        if held is None:
            yield None
            return
        started, outcome = time.monotonic(), "failed"
        try:
            with Heartbeat(self._leases, held) as heartbeat:
                yield held, heartbeat
            outcome = "ended"
        except LeaseLost:
            outcome = "lost"
            log.info("%s is not ours any more", job_id)
        except (
            Exception
        ) as error:  # whatever it is, the job's record must say so, and the worker must live on
            log.exception("step %s of %s failed", step, job_id)
            self._give_back(held, error)
        finally:
            TASKS.labels(step.value, outcome).observe(time.monotonic() - started)

    def _give_back(self, held: Held, error: Exception) -> None:
        try:
            known = as_disk_full(error, self._options.home / held.job.id) or error
            if isinstance(known, DomainError) and (known is not error or not isinstance(error, Unavailable)):
                self._leases.failed(held, {"code": known.code, "message": known.message, **known.details})
            else:
                self._leases.release(held, f"{type(error).__name__}: {error}")
        except LeaseLost:
            log.info("%s is not ours any more", held.job.id)


def _count(job: TrainingJob) -> None:
    """What its receipt charges."""
    if job.payment is not None and job.result is not None:
        num_tokens = int(job.result.metrics["num_trained_tokens"])
        CHARGED_TOKENS.labels("trained").inc(num_tokens)
        CHARGED_UNITS.inc(num_tokens * job.payment.price)


def _named(job: TrainingJob, parent: Parent | None) -> tuple[SnapshotId, ...]:
    """As `backend.services.train.parents.snapshots_of` has them."""
    return (job.snapshot_id,) if parent is None else joined(job.snapshot_id, parent.record)
