"""Warm starts: jobs that continue from a registered adapter, whose contributors keep their attribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, NotFound
from backend.domain.receipt import MAX_SNAPSHOTS
from backend.services.market.denials import check_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Hash32, SnapshotId, VersionId
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import Snapshot
    from backend.domain.training import TrainingJob
    from backend.ports.chain_view import ChainView
    from backend.services.market.adapter_folders import AdapterFolders


class InvalidParent(InvalidInput):
    """The job cannot continue from this adapter; the message has the reason and a remedy."""


@dataclass(frozen=True, slots=True)
class Parent:
    record: VersionRecord
    folder: Path


class Parents:
    """Fetches the adapters that jobs continue from."""

    def __init__(self, db: Database, folders: AdapterFolders) -> None:
        self._db = db
        self._folders = folders

    def fetch(self, version: VersionId) -> Parent:
        """Fetch the adapter's folder. Errors: `NotFound`, those of `AdapterFolders.folder`."""
        with self._db.read() as tx:
            record = require_version(tx.chain, version)
        return Parent(record, self._folders.folder(record))


def snapshots_of(tx: UnitOfWork, job: TrainingJob) -> tuple[SnapshotId, ...]:
    """The snapshots that the record of the job's adapter must name: the job's own first, then its parent's.

    Empty for an imported adapter, whose training data cannot be proven; the treasury gets that share.
    """
    if job.imported is not None:
        return ()
    if job.config.parent is None:
        return (job.snapshot_id,)
    return merge_snapshots(job.snapshot_id, require_version(tx.chain, job.config.parent))


def check_parent(tx: UnitOfWork, snapshot_id: SnapshotId, version: VersionId, base: Hash32) -> None:
    """`base`: the base model that the job trains. Errors: `NotFound`, `InvalidParent`, those of
    `check_adapter`.

    The job's snapshot must contain those of its parent. The new adapter's index then has a direction for
    every contributor of the parent, so that a warm start ends no contributor's attribution.
    """
    record = require_version(tx.chain, version)
    check_adapter(tx, record.adapter_digest, "parent")
    if record.base_model != base:
        message = f"{version} is an adapter of base model {record.base_model}, not of {base}"
        raise InvalidParent(message, param="parent")
    if not record.snapshots:
        raise InvalidParent(f"{version} is not an adapter with a snapshot", param="parent")
    num_named = len(merge_snapshots(snapshot_id, record))
    if num_named > MAX_SNAPSHOTS:
        limit = f"would name {num_named} snapshots, including its parents'; the limit is {MAX_SNAPSHOTS}"
        raise InvalidParent(f"the new version {limit}: start from the base model", param="parent")
    snapshot = tx.chain.snapshot(snapshot_id)
    for seen in record.snapshots:
        if snapshot is None or not _contains(snapshot, tx.chain.snapshot(seen)):
            message = f"{version} was trained on snapshot {seen}, which this one does not contain"
            raise InvalidParent(f"{message}: freeze a snapshot that does", param="snapshot_id")


def require_version(chain: ChainView, version: VersionId) -> VersionRecord:
    """The record of a job's parent. Errors: `NotFound`."""
    record = chain.version(version)
    if record is None:
        raise NotFound(f"no version {version}, or it is not confirmed yet", param="parent")
    return record


def merge_snapshots(snapshot_id: SnapshotId, parent: VersionRecord) -> tuple[SnapshotId, ...]:
    return (snapshot_id, *(seen for seen in parent.snapshots if seen != snapshot_id))


def _contains(snapshot: Snapshot, other: Snapshot | None) -> bool:
    if other is None or other.datanet != snapshot.datanet:
        return False
    return set(other.accepted) <= set(snapshot.accepted)


def reject_parent(version: VersionId) -> Parent:
    raise InvalidParent(
        f"this worker fetches no adapters, so it cannot continue from {version}", param="parent"
    )
