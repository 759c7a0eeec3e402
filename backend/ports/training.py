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

    def licences(self, snapshot_id: SnapshotId) -> Sequence[str]:
        """SPDX expressions of the accepted contributions, each once."""
        ...
