"""Where a version comes from and how it is used: its data, its name's versions, its answers by day."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from backend.domain.catalogue import CHART_DAYS
from backend.domain.days import EPOCH
from backend.services.market.descriptions import usage_since

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date, datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import DatanetId, SnapshotId, VersionId
    from backend.domain.registries import Contribution, Datanet, RegisteredVersion, Snapshot


@dataclass(frozen=True, slots=True)
class Source:
    """A snapshot that a version was trained on. `contributions`: the accepted ones, by rising index."""

    snapshot: Snapshot
    datanet: Datanet | None
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True)
class Lineage:
    """`versions`: all of the same creator and name, newest first. `answers`: this operator's on each of the
    last `CHART_DAYS` days, today last. `earned`: micro-units that batches of all operators verified here
    credit for each contribution (datanet, index) through this version, pending batches included.
    """

    sources: tuple[Source, ...]
    versions: tuple[RegisteredVersion, ...]
    answers: tuple[tuple[date, int], ...]
    earned: Mapping[tuple[DatanetId, int], int]


class Lineages:
    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db, self._clock = db, clock

    def of(self, version: VersionId) -> Lineage:
        """Empty for a version that the indexed chain does not have (any more)."""
        since = usage_since(self._clock(), CHART_DAYS)
        with self._db.read() as tx:
            record = tx.chain.version(version)
            if record is None:
                return Lineage((), (), (), {})
            counted = tx.catalogue.answers_by_day(version, since)
            versions = tx.chain.versions(creator=record.creator, name=record.name)
            sources = [_source(tx, snapshot) for snapshot in record.snapshots]
            earned: Counter[tuple[DatanetId, int]] = Counter()
            for one in tx.contribution_totals.of_versions([version]):
                earned[one.datanet, one.contribution] += one.amount
        days = [(EPOCH + timedelta(day), counted.get(day, 0)) for day in range(since, since + CHART_DAYS)]
        known = tuple(one for one in sources if one is not None)
        return Lineage(known, tuple(reversed(versions)), tuple(days), earned)


def _source(tx: UnitOfWork, snapshot_id: SnapshotId) -> Source | None:
    snapshot = tx.chain.snapshot(snapshot_id)
    if snapshot is None:
        return None
    accepted = set(snapshot.accepted)
    contributions = [one for one in tx.chain.contributions(snapshot.datanet) if one.index in accepted]
    return Source(snapshot, tx.chain.datanet(snapshot.datanet), tuple(contributions))
