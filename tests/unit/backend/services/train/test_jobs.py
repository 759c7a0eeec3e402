from __future__ import annotations

import pytest

from backend.domain.errors import Conflict, Forbidden, NotFound
from backend.domain.ids import Cid, Hash32, SnapshotId
from backend.domain.training import (
    EmptySnapshot,
    JobState,
    Step,
)
from backend.services.train import progress
from backend.services.train.leases import LeaseLost
from tests.support.webhooks import events_of, register
from tests.unit.workers.support import CREATOR, DATASET, OTHER_CREATOR, RESULT, JobHarness

CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")


def test_a_new_job_is_recorded_and_offered(harness: JobHarness) -> None:
    job = harness.job(rank=4)
    assert harness.training.get(job.id) == job
    assert (job.state, job.config.rank) == (JobState.VALIDATING, 4)
    assert harness.offers() == [("training.validate", job.id)]
    assert [event.data["state"] for event in harness.events(job)] == ["validating"]


def test_a_snapshot_must_exist_and_hold_something(harness: JobHarness) -> None:
    with pytest.raises(NotFound):
        harness.training.create(CREATOR, SnapshotId(Hash32("0x" + "99" * 32)), {})
    with pytest.raises(EmptySnapshot):
        harness.training.create(CREATOR, harness.snapshot(False, False), {})
    assert not harness.training.list()


def test_jobs_are_listed_by_creator_newest_first(harness: JobHarness) -> None:
    first = harness.job()
    harness.wait(1)
    second = harness.job()
    assert [job.id for job in harness.training.list(CREATOR)] == [second.id, first.id]
    assert [job.id for job in harness.training.list(CREATOR, limit=1)] == [second.id]
    assert not harness.training.list(OTHER_CREATOR)


def test_a_job_passes_through_all_its_states(harness: JobHarness) -> None:
    held = harness.create_leased()
    harness.leases.complete_validation(held, DATASET)
    job = harness.training.get(held.job.id)
    assert (job.state, job.dataset) == (JobState.QUEUED, DATASET)

    held = harness.leases.acquire(job.id, Step.TRAIN)
    assert held is not None
    assert harness.training.get(job.id).state is JobState.RUNNING
    harness.leases.record_event(held, "progress", {"step": 1, "loss": 2.0})
    harness.leases.complete_training(held, RESULT)
    assert harness.training.get(job.id).state is JobState.RUNNING

    held = harness.leases.acquire(job.id, Step.PUBLISH)
    assert held is not None
    harness.leases.complete_publication(held, CID)
    job = harness.training.get(job.id)
    assert (job.state, job.cid, job.result, job.finished_at) == (JobState.SUCCEEDED, CID, RESULT, harness.now)
    assert [topic for topic, _ in harness.offers()] == [
        "training.validate",
        "training.train",
        "training.publish",
    ]
    kinds = [event.kind for event in harness.events(job)]
    middle = ["dataset", "state", "state", "progress", "result", "state"]
    assert kinds == ["state", "state", *middle, "published", "state"]
    assert [event.seq for event in harness.events(job)] == list(range(1, 11))
    assert [event.seq for event in harness.training.events(job.id, after=8)] == [9, 10]


def test_jobs_are_readable_during_a_write(harness: JobHarness) -> None:
    job = harness.job()
    with harness.database.begin():
        assert harness.training.get(job.id) == job
        assert harness.training.list() == [job]
        assert len(harness.training.events(job.id)) == 1


def test_cancelling_stops_the_worker_and_ends_the_job(harness: JobHarness) -> None:
    held = harness.create_leased()
    assert harness.training.cancel(held.job.id, CREATOR).state is JobState.CANCELLED
    assert not harness.leases.renew(held)
    with pytest.raises(LeaseLost):
        harness.leases.complete_validation(held, DATASET)
    assert harness.leases.acquire(held.job.id, Step.VALIDATE) is None
    assert harness.training.cancel(held.job.id, CREATOR).state is JobState.CANCELLED


def test_only_the_creator_cancels_and_only_what_is_not_over(harness: JobHarness) -> None:
    held = harness.create_leased()
    with pytest.raises(Forbidden):
        harness.training.cancel(held.job.id, OTHER_CREATOR)
    harness.leases.fail(held, {"code": "x", "message": "x"})
    with pytest.raises(Conflict):
        harness.training.cancel(held.job.id, CREATOR)
    with pytest.raises(NotFound):
        harness.training.cancel("ftjob-none", CREATOR)


def test_the_end_of_a_job_is_told_to_the_creator_s_webhooks(harness: JobHarness) -> None:
    endpoint = register(harness.database, CREATOR)
    register(harness.database, OTHER_CREATOR)
    succeeded, failed, cancelled = (harness.create_leased() for _ in range(3))
    assert events_of(harness.database, endpoint) == []
    harness.leases.complete_publication(succeeded, CID)
    harness.leases.fail(failed, {"code": "x", "message": "x"})
    harness.training.cancel(cancelled.job.id, CREATOR)
    harness.training.cancel(cancelled.job.id, CREATOR)
    assert events_of(harness.database, endpoint) == [
        ("fine_tuning.job.succeeded", {"id": succeeded.job.id}),
        ("fine_tuning.job.failed", {"id": failed.job.id}),
        ("fine_tuning.job.cancelled", {"id": cancelled.job.id}),
    ]


def test_progress_counts_a_repeated_step_once_and_has_few_points(
    harness: JobHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MAX_POINTS", 4)
    held = harness.create_leased()
    record = harness.leases.record_event
    for model, loss in (("base", 3.0), ("step-2", 2.5), ("parent", 9.0)):
        record(held, "eval", {"model": model, "loss": loss, "perplexity": 1.0})
    pace = {"num_steps": 9, "tokens_per_second": 5.0, "eta_seconds": 2.0}
    for step in (1, 2, 3, 2, 3, 4, 5, 6, 7, 8):
        record(held, "progress", {"step": step, "loss": 3.0 - step / 10, **pace})
    found = harness.training.progress(held.job.id)
    assert found.held_out == ((0, 3.0), (2, 2.5))
    assert (found.step, found.num_steps, found.eta_seconds) == (8, 9, 2.0)
    steps = [step for step, _ in found.train]
    assert steps == sorted(set(steps))
    assert (steps[-1], len(steps) <= 6) == (8, True)
    assert [one.kind for one in found.milestones] == ["state", "state"]
    assert harness.training.progress(harness.job().id).train == ()


def test_progress_has_the_stage_of_a_job_until_a_step_follows(harness: JobHarness) -> None:
    held, pace = harness.create_leased(), {"num_steps": 9, "tokens_per_second": 5.0, "eta_seconds": 2.0}
    for stage in ("evaluation", "answers"):
        for done in (1, 2):
            harness.leases.record_event(held, "working", {"stage": stage, "done": done, "total": 2})
        found = harness.training.progress(held.job.id).working
        assert found is not None
        assert found.data == {"stage": stage, "done": 2, "total": 2}
    harness.leases.record_event(held, "progress", {"step": 1, "loss": 3.0, **pace})
    assert harness.training.progress(held.job.id).working is None


def test_a_walk_through_checkpoints_ends_though_a_killed_workers_steps_were_done_again(
    harness: JobHarness,
) -> None:
    held = harness.create_leased()
    for step in (20, 40, 20, 40, 60):
        harness.leases.record_event(held, "checkpoint", {"step": step})
        harness.leases.record_event(held, "progress", {"step": step})
    met: list[int] = []
    while page := harness.training.checkpoints(held.job.id, 1, met[-1] if met else None):
        met += [event.data["step"] for event in page]
    assert met == [60, 40, 20]
    assert [event.data["step"] for event in harness.training.checkpoints(held.job.id, 4)] == [60, 40, 20, 40]
    with pytest.raises(NotFound):
        harness.training.checkpoints(held.job.id, 1, 30)
