from __future__ import annotations

import pytest

from backend.domain.errors import Conflict, Forbidden, NotFound
from backend.domain.ids import Cid, Hash32, SnapshotId
from backend.domain.training import (
    EmptySnapshot,
    JobState,
    Step,
)
from backend.services.train.leases import LeaseLost
from tests.unit.workers.support import CREATOR, DATASET, OTHER_CREATOR, RESULT, Desk

CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")


def test_a_new_job_is_recorded_and_offered(desk: Desk) -> None:
    job = desk.job(rank=4)
    assert desk.training.get(job.id) == job
    assert (job.state, job.config.rank) == (JobState.VALIDATING, 4)
    assert desk.offers() == [("training.validate", job.id)]
    assert [event.data["state"] for event in desk.events(job)] == ["validating"]


def test_a_snapshot_must_exist_and_hold_something(desk: Desk) -> None:
    with pytest.raises(NotFound):
        desk.training.create(CREATOR, SnapshotId(Hash32("0x" + "99" * 32)), {})
    with pytest.raises(EmptySnapshot):
        desk.training.create(CREATOR, desk.snapshot(False, False), {})
    assert not desk.training.list()


def test_jobs_are_listed_by_creator_newest_first(desk: Desk) -> None:
    first = desk.job()
    desk.wait(1)
    second = desk.job()
    assert [job.id for job in desk.training.list(CREATOR)] == [second.id, first.id]
    assert [job.id for job in desk.training.list(CREATOR, limit=1)] == [second.id]
    assert not desk.training.list(OTHER_CREATOR)


def test_a_job_passes_through_all_its_states(desk: Desk) -> None:
    held = desk.taken()
    desk.leases.complete_validation(held, DATASET)
    job = desk.training.get(held.job.id)
    assert (job.state, job.dataset) == (JobState.QUEUED, DATASET)

    held = desk.leases.acquire(job.id, Step.TRAIN)
    assert held is not None
    assert desk.training.get(job.id).state is JobState.RUNNING
    desk.leases.record_event(held, "progress", {"step": 1, "loss": 2.0})
    desk.leases.complete_training(held, RESULT)
    assert desk.training.get(job.id).state is JobState.RUNNING

    held = desk.leases.acquire(job.id, Step.PUBLISH)
    assert held is not None
    desk.leases.complete_publication(held, CID)
    job = desk.training.get(job.id)
    assert (job.state, job.cid, job.result, job.finished_at) == (JobState.SUCCEEDED, CID, RESULT, desk.now)
    assert [topic for topic, _ in desk.offers()] == [
        "training.validate",
        "training.train",
        "training.publish",
    ]
    kinds = [event.kind for event in desk.events(job)]
    assert kinds == ["state", "state", "dataset", "state", "state", "progress", "state", "published", "state"]
    assert [event.seq for event in desk.events(job)] == list(range(1, 10))
    assert [event.seq for event in desk.training.events(job.id, after=7)] == [8, 9]


def test_jobs_are_shown_while_somebody_writes(desk: Desk) -> None:
    job = desk.job()
    with desk.database.begin():
        assert desk.training.get(job.id) == job
        assert desk.training.list() == [job]
        assert len(desk.training.events(job.id)) == 1


def test_cancelling_stops_the_worker_and_ends_the_job(desk: Desk) -> None:
    held = desk.taken()
    assert desk.training.cancel(held.job.id, CREATOR).state is JobState.CANCELLED
    assert not desk.leases.renew(held)
    with pytest.raises(LeaseLost):
        desk.leases.complete_validation(held, DATASET)
    assert desk.leases.acquire(held.job.id, Step.VALIDATE) is None
    assert desk.training.cancel(held.job.id, CREATOR).state is JobState.CANCELLED


def test_only_the_creator_cancels_and_only_what_is_not_over(desk: Desk) -> None:
    held = desk.taken()
    with pytest.raises(Forbidden):
        desk.training.cancel(held.job.id, OTHER_CREATOR)
    desk.leases.fail(held, {"code": "x", "message": "x"})
    with pytest.raises(Conflict):
        desk.training.cancel(held.job.id, CREATOR)
    with pytest.raises(NotFound):
        desk.training.cancel("ftjob-none", CREATOR)
