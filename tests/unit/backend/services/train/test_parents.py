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
    from tests.unit.workers.support import JobHarness


def job_on(harness: JobHarness, parent: VersionId, *accepted: bool) -> TrainingJob:
    return harness.training.create(CREATOR, harness.snapshot(*accepted), {"parent": parent})


def test_a_snapshot_that_contains_the_parents_is_gone_on_with(harness: JobHarness) -> None:
    seen = harness.snapshot(True, False)
    job = job_on(harness, harness.version(seen), True, False, True)
    with harness.database.read() as tx:
        assert snapshots_of(tx, job) == (job.snapshot_id, seen)
        assert snapshots_of(tx, harness.training.get(job.id)) == (job.snapshot_id, seen)


def test_the_same_snapshot_is_named_once(harness: JobHarness) -> None:
    seen = harness.snapshot(True)
    job = job_on(harness, harness.version(seen), True)
    with harness.database.read() as tx:
        assert snapshots_of(tx, job) == (seen,)


def test_a_contribution_of_the_parent_cannot_be_dropped(harness: JobHarness) -> None:
    parent = harness.version(harness.snapshot(True, True))
    with pytest.raises(InvalidParent, match="does not contain") as refused:
        job_on(harness, parent, True, False, True)
    assert refused.value.param == "snapshot_id"


def test_a_parent_has_a_snapshot_and_no_more_than_a_record_names(harness: JobHarness) -> None:
    with pytest.raises(InvalidParent, match="not an adapter"):
        job_on(harness, harness.version(), True)
    many = [harness.snapshot(True, *[False] * count) for count in range(4)]
    with pytest.raises(InvalidParent, match="would name 5 snapshots"):
        job_on(harness, harness.version(*many), True, True, True, True, True)


def test_an_unknown_parent_is_not_found(harness: JobHarness) -> None:
    with pytest.raises(NotFound):
        job_on(harness, VersionId(Hash32("0x" + "00" * 32)), True)


def test_a_parent_is_fetched(harness: JobHarness) -> None:
    class Folders:
        def folder(self, _record: Any) -> Path:
            return Path("/adapters/one")

    version = harness.version(harness.snapshot(True))
    parent = Parents(harness.database, Folders()).fetch(version)  # type: ignore[arg-type]
    assert (parent.record.name, parent.folder) == ("parent", Path("/adapters/one"))
