from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.domain.ids import DatanetId, SnapshotId
from backend.domain.rules import to_position
from backend.services.answers.positions import Positions
from tests.support.market import some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    return ScriptedInstallation(tmp_path, sqlite_database)


def positions_of(installation: ScriptedInstallation) -> Positions:
    return Positions(installation.db)


def test_only_accepted_contributions_have_a_position_each_under_their_first_snapshots_number(
    installation: ScriptedInstallation,
) -> None:
    (known,) = installation.view.snapshots
    larger, other = SnapshotId(some_hash("larger")), SnapshotId(some_hash("of another datanet"))
    snapshot = installation.view.snapshots[known]
    installation.view.snapshots[larger] = replace(snapshot, accepted=(*snapshot.accepted, 7))
    installation.view.snapshots[other] = replace(snapshot, datanet=DatanetId(99))
    found = positions_of(installation).of((known, larger, other))
    assert found == (0, 1, 3, to_position(1, 7), *(to_position(2, index) for index in (0, 1, 3)))


def test_a_snapshot_is_read_once(installation: ScriptedInstallation) -> None:
    positions = positions_of(installation)
    snapshots = tuple(installation.view.snapshots)
    first = positions.of(snapshots)
    installation.view.snapshots.clear()
    assert positions.of(snapshots) == first


def test_a_snapshot_that_is_not_indexed_is_asked_for_again(installation: ScriptedInstallation) -> None:
    positions = positions_of(installation)
    (known,) = installation.view.snapshots
    new = SnapshotId(some_hash("new"))
    with pytest.raises(Unavailable, match=new):
        positions.of((new,))
    installation.view.snapshots[new] = installation.view.snapshots[known]
    assert len(positions.of((new,))) == 3
