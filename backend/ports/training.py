"""Rows of a snapshot, for training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backend.domain.ids import SnapshotId


class SnapshotRows(Protocol):
    """Rows of a snapshot's accepted contributions."""

    def rows(self, snapshot_id: SnapshotId) -> Iterable[tuple[int, Mapping[str, Any]]]:
        """(contribution index, row) of every accepted contribution, in canonical order."""
        ...

    def rows_at(
        self, snapshot_id: SnapshotId, places: Sequence[int]
    ) -> Iterable[tuple[int, Mapping[str, Any]]]:
        """The rows at rising places, counted from 0 by the numbers of rows that contributions state. What a
        contribution states and does not have is left out.
        """
        ...

    def licences(self, snapshot_id: SnapshotId) -> Sequence[str]:
        """SPDX expressions of the accepted contributions, each once."""
        ...
