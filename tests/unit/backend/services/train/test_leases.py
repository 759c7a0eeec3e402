from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from backend.db.tables.training import TrainingEventRow
from backend.domain.training import (
    JobState,
    Step,
)
from backend.services.train.leases import MAX_ATTEMPTS, MAX_OUTAGE, RETRY_SECONDS, LeaseLost
from backend.services.train.transitions import MAX_REDELIVERY_SECONDS, REDELIVERY_SECONDS
from tests.unit.workers.support import DATASET, JobHarness

if TYPE_CHECKING:
    from backend.services.train.leases import LeasedJob


def test_only_one_worker_takes_a_step(harness: JobHarness) -> None:
    held = harness.create_leased()
    assert harness.leases.acquire(held.job.id, Step.VALIDATE) is None


def test_of_workers_that_reach_for_a_step_at_once_one_gets_it(harness: JobHarness) -> None:
    job = harness.job()
    start = threading.Barrier(6)

    def reach(_: int) -> object:
        start.wait()
        return harness.leases.acquire(job.id, Step.VALIDATE)

    with ThreadPoolExecutor(6) as pool:
        taken_by = [held for held in pool.map(reach, range(6)) if held is not None]
    assert len(taken_by) == 1
    assert harness.training.get(job.id).lease.attempt == 1


def test_a_step_out_of_turn_is_not_taken(harness: JobHarness) -> None:
    job = harness.job()
    assert harness.leases.acquire(job.id, Step.TRAIN) is None
    assert harness.leases.acquire(job.id, Step.PUBLISH) is None
    assert harness.leases.acquire("ftjob-none", Step.TRAIN) is None


def test_a_heartbeat_keeps_the_lease(harness: JobHarness) -> None:
    held = harness.create_leased()
    for _ in range(5):
        harness.wait(20)
        assert harness.leases.renew(held)
        assert harness.leases.acquire(held.job.id, Step.VALIDATE) is None
    assert harness.training.get(held.job.id).lease.heartbeat_at == harness.now


def test_an_expired_lease_passes_on_and_its_former_owner_can_write_nothing(harness: JobHarness) -> None:
    held = harness.create_leased()
    harness.wait(31)
    second = harness.leases.acquire(held.job.id, Step.VALIDATE)
    assert second is not None
    assert second.job.lease.attempt == 2
    assert not harness.leases.renew(held)
    for write in (
        lambda: harness.leases.record_event(held, "progress", {}),
        lambda: harness.leases.complete_validation(held, DATASET),
        lambda: harness.leases.release(held),
        lambda: harness.leases.fail(held, {"code": "x", "message": "x"}),
    ):
        with pytest.raises(LeaseLost):
            write()
    harness.leases.complete_validation(second, DATASET)


def test_a_lapsed_job_is_offered_again_until_a_worker_takes_it(harness: JobHarness) -> None:
    held = harness.create_leased()
    assert harness.leases.requeue_expired() == 0
    harness.wait(31)
    assert harness.leases.requeue_expired() == 1
    assert harness.leases.requeue_expired() == 0
    harness.wait(REDELIVERY_SECONDS + 1)
    assert harness.leases.requeue_expired() == 1
    assert harness.offers() == [("training.validate", held.job.id)] * 3


def test_untaken_offers_become_rarer(harness: JobHarness) -> None:
    harness.job()
    offered_at = []
    for second in range(0, 3600, 10):
        offered_at += [second] * harness.leases.requeue_expired()
        harness.wait(10)
    waits = [after - before for before, after in pairwise([0, *offered_at])]
    assert waits[:5] == [30, 30, 60, 120, 240]
    assert set(waits[6:]) == {MAX_REDELIVERY_SECONDS}


def test_a_finished_job_is_never_offered(harness: JobHarness) -> None:
    held = harness.create_leased()
    harness.leases.fail(held, {"code": "empty_snapshot", "message": "nothing"})
    harness.wait(10_000)
    assert harness.leases.requeue_expired() == 0


def test_a_step_that_kills_its_workers_is_given_up(harness: JobHarness) -> None:
    job = harness.job()
    for _ in range(MAX_ATTEMPTS):
        assert harness.leases.acquire(job.id, Step.VALIDATE) is not None
        harness.wait(31)
    assert harness.leases.acquire(job.id, Step.VALIDATE) is None
    job = harness.training.get(job.id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "given_up"


def test_a_step_that_gets_further_each_time_is_not_given_up(harness: JobHarness) -> None:
    job = harness.job()
    for step in range(2 * MAX_ATTEMPTS):
        held = harness.leases.acquire(job.id, Step.VALIDATE)
        assert held is not None
        harness.leases.record_event(held, "checkpoint", {"step": step})
        harness.wait(31)


def test_a_step_that_reaches_the_same_checkpoint_each_time_is_given_up(harness: JobHarness) -> None:
    job = harness.job()
    for _ in range(MAX_ATTEMPTS):
        held = harness.leases.acquire(job.id, Step.VALIDATE)
        assert held is not None
        for step in (3, 7):  # as a worker without the files of the one before
            harness.leases.record_event(held, "checkpoint", {"step": step})
        harness.wait(31)
    assert harness.leases.acquire(job.id, Step.VALIDATE) is None
    assert harness.training.get(job.id).state is JobState.FAILED


def test_work_given_back_by_a_stopping_worker_does_not_count_as_an_attempt(harness: JobHarness) -> None:
    job = harness.job()
    for _ in range(2 * MAX_ATTEMPTS):
        held = harness.leases.acquire(job.id, Step.VALIDATE)
        assert held is not None
        harness.leases.release(held)
        assert harness.leases.requeue_expired() == 1
        harness.wait(1)


def test_a_failed_attempt_waits_before_it_is_offered_again(harness: JobHarness) -> None:
    held = harness.create_leased()
    harness.leases.release(held, "the block store is away")
    assert harness.leases.requeue_expired() == 0
    harness.wait(3)
    assert harness.leases.requeue_expired() == 1
    assert harness.events(held.job)[-1].data == {"message": "the block store is away", "attempt": 1}


def test_stale_messages_do_not_burn_the_attempts_of_a_step_that_rests(harness: JobHarness) -> None:
    held = harness.create_leased()
    waits = []
    for _ in range(MAX_ATTEMPTS - 1):
        harness.leases.release(held, "the block store is away")
        with pytest.raises(LeaseLost):
            harness.leases.record_event(held, "progress", {})
        waits.append(0)
        while (again := harness.leases.acquire(held.job.id, Step.VALIDATE)) is None:
            harness.wait(1)
            waits[-1] += 1
        held = again
    assert waits == [2, 4, 8, 16]


def waits(harness: JobHarness, held: LeasedJob, until: timedelta) -> list[float]:
    """Seconds that the step rests in each outage, until so much time has passed."""
    job_id, began, found = held.job.id, harness.now, list[float]()
    while harness.now - began < until:
        harness.leases.wait(held, "the block store is away")
        found.append((harness.training.get(job_id).lease.until - harness.now).total_seconds())
        harness.wait(found[-1])
        again = harness.leases.acquire(job_id, Step.VALIDATE)
        assert again is not None
        held = again
    return found


def test_an_outage_is_waited_for_with_growing_pauses_and_counts_as_no_attempt(harness: JobHarness) -> None:
    found = waits(harness, harness.create_leased(), timedelta(hours=3))
    assert found[:5] == [RETRY_SECONDS, 2, 4, 8, 16]
    assert set(found[11:]) == {MAX_REDELIVERY_SECONDS}


def test_an_outage_without_an_end_fails_the_job(harness: JobHarness) -> None:
    held = harness.create_leased()
    waits(harness, held, MAX_OUTAGE)
    last = replace(held, owner=str(harness.training.get(held.job.id).lease.owner))
    harness.leases.wait(last, "the block store is away")
    error = harness.training.get(held.job.id).error
    assert error is not None
    assert (error["code"], "the block store is away" in error["message"]) == ("given_up", True)


def test_a_second_outage_after_a_checkpoint_is_waited_for_anew(harness: JobHarness) -> None:
    held = harness.create_leased()
    harness.leases.wait(held, "the block store is away")
    harness.wait(MAX_OUTAGE.total_seconds())
    again = harness.leases.acquire(held.job.id, Step.VALIDATE)
    assert again is not None
    harness.leases.record_event(again, "checkpoint", {"step": 1})
    assert waits(harness, again, timedelta(seconds=1)) == [RETRY_SECONDS]


@pytest.mark.parametrize(
    ("untried", "trying", "last"),
    [
        (MAX_OUTAGE, timedelta(), JobState.VALIDATING),  # its worker was busy with another job
        (timedelta(seconds=MAX_REDELIVERY_SECONDS), MAX_OUTAGE, JobState.FAILED),
    ],
)
def test_time_without_an_attempt_is_no_outage(
    harness: JobHarness, untried: timedelta, trying: timedelta, last: JobState
) -> None:
    held = harness.create_leased()
    harness.leases.wait(held, "the disk is full")
    harness.wait(untried.total_seconds())
    again = harness.leases.acquire(held.job.id, Step.VALIDATE)
    assert again is not None
    harness.wait(trying.total_seconds())
    harness.leases.wait(again, "the disk is full")
    assert harness.training.get(held.job.id).state is last


def test_a_step_that_waits_reads_one_event_of_its_job(harness: JobHarness) -> None:
    held = harness.create_leased()
    for step in range(1, 9):
        harness.leases.record_event(held, "checkpoint", {"step": step})
    read: list[object] = []
    count = lambda row, _: read.append(row)  # noqa: E731
    event.listen(TrainingEventRow, "load", count)
    try:
        harness.leases.wait(held, "the block store is away")
    finally:
        event.remove(TrainingEventRow, "load", count)
    assert len(read) == 1


def test_a_missing_adapter_is_asked_for_with_growing_pauses(harness: JobHarness) -> None:
    held = harness.create_leased()
    harness.leases.retry_without_adapter(held)
    assert harness.leases.acquire(held.job.id, Step.VALIDATE) is None
    harness.wait(2)
    assert harness.leases.acquire(held.job.id, Step.VALIDATE) is not None
