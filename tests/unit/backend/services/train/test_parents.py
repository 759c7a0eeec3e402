from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import NotFound
from backend.domain.ids import Hash32, VersionId
from backend.services.train.parents import InvalidParent, Parents, snapshots_of
from tests.unit.workers.support import CREATOR

if TYPE_CHECKING:
    from backend.domain.training import TrainingJob
    from tests.unit.workers.support import Desk


def job_on(desk: Desk, parent: VersionId, *accepted: bool) -> TrainingJob:
    return desk.training.create(CREATOR, desk.snapshot(*accepted), {"parent": parent})


def test_a_snapshot_that_contains_the_parents_is_gone_on_with(desk: Desk) -> None:
    seen = desk.snapshot(True, False)
    job = job_on(desk, desk.version(seen), True, False, True)
    with desk.database.read() as tx:
        assert snapshots_of(tx, job) == (job.snapshot_id, seen)
        assert snapshots_of(tx, desk.training.get(job.id)) == (job.snapshot_id, seen)


def test_the_same_snapshot_is_named_once(desk: Desk) -> None:
    seen = desk.snapshot(True)
    job = job_on(desk, desk.version(seen), True)
    with desk.database.read() as tx:
        assert snapshots_of(tx, job) == (seen,)


def test_a_contribution_of_the_parent_cannot_be_dropped(desk: Desk) -> None:
    parent = desk.version(desk.snapshot(True, True))
    with pytest.raises(InvalidParent, match="does not contain") as refused:
        job_on(desk, parent, True, False, True)
    assert refused.value.param == "snapshot_id"


def test_a_parent_has_a_snapshot_and_no_more_than_a_record_names(desk: Desk) -> None:
    with pytest.raises(InvalidParent, match="not an adapter"):
        job_on(desk, desk.version(), True)
    many = [desk.snapshot(True, *[False] * count) for count in range(4)]
    with pytest.raises(InvalidParent, match="would name 5 snapshots"):
        job_on(desk, desk.version(*many), True, True, True, True, True)


def test_an_unknown_parent_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFound):
        job_on(desk, VersionId(Hash32("0x" + "00" * 32)), True)


def test_a_parent_is_brought_here(desk: Desk) -> None:
    class Folders:
        def folder(self, _record: Any) -> Path:
            return Path("/adapters/one")

    version = desk.version(desk.snapshot(True))
    parent = Parents(desk.database, Folders()).fetch(version)  # type: ignore[arg-type]
    assert (parent.record.name, parent.folder) == ("parent", Path("/adapters/one"))
