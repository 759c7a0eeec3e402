"""Positions of the contributions that a version's receipts may name."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from backend.domain.errors import Unavailable
from backend.domain.rules import to_position

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import DatanetId, SnapshotId

CACHE_SIZE = 64
"""Versions in the cache; the longest lists take some megabytes."""


class Positions:
    """One position of each accepted contribution of a version's snapshots. The snapshots of a warm start
    contain each other, and a contribution that has two positions would be paid twice by equal scores.

    Results are cached across reorgs: a snapshot's id is the hash of what it accepts.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.of = lru_cache(CACHE_SIZE)(self._find)

    def _find(self, snapshots: tuple[SnapshotId, ...]) -> tuple[int, ...]:
        """Rising: of a contribution's positions the first. Raises Unavailable if a snapshot is not indexed,
        since its contributors would get no shares.
        """
        positions: dict[tuple[DatanetId, int], int] = {}
        with self._db.read() as tx:
            for number, snapshot in enumerate(snapshots):
                found = tx.chain.snapshot(snapshot)
                if found is None:
                    raise Unavailable(f"The snapshot {snapshot} is not indexed here; nothing was charged.")
                for index in found.accepted:
                    positions.setdefault((found.datanet, index), to_position(number, index))
        return tuple(positions.values())
