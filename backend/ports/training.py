"""What fine-tuning asks of the database and of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from backend.ports.serving import ServingTx

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from backend.domain.ids import Account, SnapshotId
    from backend.domain.training import JobEvent, TrainingJob
    from backend.ports.chain import Transactions
    from backend.ports.outbox import Outbox


class TrainingJobs(Protocol):
    def add(self, job: TrainingJob) -> None: ...

    def get(self, job_id: str) -> TrainingJob | None: ...

    def locked(self, job_id: str) -> TrainingJob | None:
        """The job, and nobody else changes it until the transaction ends."""
        ...

    def save(self, job: TrainingJob) -> None:
        """Write back a job that is locked."""
        ...

    def find(
        self, creator: Account | None, limit: int, after: str | None = None, *, are_foreign: bool = False
    ) -> list[TrainingJob]:
        """Those that train, or those of foreign adapters. Newest first, those that follow on job `after`.
        Errors: `InvalidInput` if that is none of them.
        """
        ...

    def lapsed(self, now: datetime, limit: int) -> list[str]:
        """Ids of jobs that are not over and whose lease is past, the longest waiting first."""
        ...

    def unregistered(self) -> list[TrainingJob]:
        """Jobs that are published, but not known to be registered on the chain."""
        ...

    def add_event(self, job_id: str, kind: str, data: Mapping[str, Any], at: datetime) -> JobEvent: ...

    def events(self, job_id: str, after: int, limit: int | None, kind: str | None = None) -> list[JobEvent]:
        """With `seq` above `after`, in order; all kinds and all of them, unless told otherwise."""
        ...


class TrainingTx(ServingTx, Protocol):
    @property
    def training(self) -> TrainingJobs: ...

    @property
    def outbox(self) -> Outbox: ...

    @property
    def transactions(self) -> Transactions: ...


class SnapshotRows(Protocol):
    """The rows behind a snapshot."""

    def rows(self, snapshot_id: SnapshotId) -> Iterable[tuple[int, Mapping[str, Any]]]:
        """(contribution index, row) of every accepted contribution, in canonical order."""
        ...

    def licences(self, snapshot_id: SnapshotId) -> Sequence[str]:
        """SPDX expressions of the accepted contributions, each once."""
        ...
