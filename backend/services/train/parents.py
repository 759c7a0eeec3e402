"""Warm starts: a job that goes on from a registered adapter, and keeps that one's contributors in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import SnapshotId, VersionId
    from backend.domain.receipt import VersionRecord
    from backend.domain.registries import Snapshot
    from backend.domain.training import TrainingJob
    from backend.ports.chain import ChainView
    from backend.services.market.adapter_folders import AdapterFolders

MAX_SNAPSHOTS = 4
"""Of a version record."""


class UnfitParent(InvalidInput):
    """An adapter that this job cannot go on from; the message says why, and what would do."""


@dataclass(frozen=True, slots=True)
class Parent:
    record: VersionRecord
    folder: Path


class Parents:
    """Adapters that jobs go on from, brought to this machine."""

    def __init__(self, db: Database, folders: AdapterFolders) -> None:
        self._db = db
        self._folders = folders

    def bring(self, version: VersionId) -> Parent:
        """Blocks while its folder is fetched. Errors: `NotFound`, those of `AdapterFolders.folder`."""
        with self._db.read() as tx:
            record = _known(tx.chain, version)
        return Parent(record, self._folders.folder(record))


def snapshots_of(tx: UnitOfWork, job: TrainingJob) -> tuple[SnapshotId, ...]:
    """All that the adapter of a job may have seen, its own snapshot first: what its record has to name.

    None of a foreign adapter: whose data it was made from cannot be proven, so that part of what it earns is
    the treasury's.
    """
    if job.imported is not None:
        return ()
    if job.config.parent is None:
        return (job.snapshot_id,)
    return joined(job.snapshot_id, _known(tx.chain, job.config.parent))


def check_parent(tx: UnitOfWork, snapshot_id: SnapshotId, version: VersionId) -> None:
    """Errors: `NotFound`, `UnfitParent`.

    The job's snapshot contains those of its parent: the index of the new adapter then has a direction for
    everybody whose rows are in the old one, and nobody's part ends by going on from it.
    """
    record = _known(tx.chain, version)
    if not record.snapshots:
        raise UnfitParent(f"{version} is no adapter with a snapshot of its own", param="parent")
    num_named = len(joined(snapshot_id, record))
    if num_named > MAX_SNAPSHOTS:
        least = f"would name {num_named} snapshots, its parents' among them; a record names {MAX_SNAPSHOTS}"
        raise UnfitParent(f"the new version {least}: start from the base model", param="parent")
    snapshot = tx.chain.snapshot(snapshot_id)
    for seen in record.snapshots:
        if snapshot is None or not _contains(snapshot, tx.chain.snapshot(seen)):
            message = f"{version} was trained on snapshot {seen}, which this one does not contain"
            raise UnfitParent(f"{message}: freeze one that has its contributions too", param="snapshot_id")


def _known(chain: ChainView, version: VersionId) -> VersionRecord:
    record = chain.version(version)
    if record is None:
        raise NotFound(f"no version {version}, or it is not confirmed yet", param="parent")
    return record


def joined(snapshot_id: SnapshotId, parent: VersionRecord) -> tuple[SnapshotId, ...]:
    return (snapshot_id, *(seen for seen in parent.snapshots if seen != snapshot_id))


def _contains(snapshot: Snapshot, other: Snapshot | None) -> bool:
    if other is None or other.datanet != snapshot.datanet:
        return False
    return set(other.accepted) <= set(snapshot.accepted)


def no_parents(version: VersionId) -> Parent:
    raise UnfitParent(f"this worker fetches no adapters, so it cannot go on from {version}", param="parent")
