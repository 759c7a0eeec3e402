"""Writes the rows of a snapshot to a job folder."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from backend.disk.files import replacing
from backend.domain.ids import Hash32
from backend.domain.training import Dataset, EmptySnapshot

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import SnapshotId
    from backend.ports.training import SnapshotRows


def write_rows(source: SnapshotRows, snapshot_id: SnapshotId, path: Path) -> Dataset:
    """Write one line `{"contribution": index, "row": {...}}` per row, atomically. Errors: `EmptySnapshot`."""
    digest = hashlib.sha256()
    contributions: set[int] = set()
    num_rows = 0
    with replacing(path) as draft, draft.open("wb") as file:
        for contribution, row in source.rows(snapshot_id):
            line = json.dumps({"contribution": contribution, "row": row}, sort_keys=True).encode() + b"\n"
            digest.update(line)
            file.write(line)
            contributions.add(contribution)
            num_rows += 1
        if not num_rows:
            raise EmptySnapshot(f"no row of snapshot {snapshot_id} was accepted", param="snapshot_id")
    return Dataset(Hash32("0x" + digest.hexdigest()), num_rows, len(contributions))


def sha256_of(path: Path) -> Hash32:
    """As in the `Dataset` of a file that `write_rows` wrote."""
    with path.open("rb") as file:
        return Hash32("0x" + hashlib.file_digest(file, "sha256").hexdigest())
