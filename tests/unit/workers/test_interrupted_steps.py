from __future__ import annotations

import errno
import shutil
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.adapter_files import WEIGHTS_FILE
from backend.domain.content import ContentCorrupt, ContentMissing, cid_of
from backend.domain.denials import Denial, Denied, Reason, Subject
from backend.domain.errors import Unavailable
from backend.domain.ids import Hash32
from backend.domain.training import JobState, Step
from backend.services.contribute.snapshot import ContributionWithdrawn
from backend.services.train.leases import MAX_ATTEMPTS, MAX_OUTAGE, Leases
from backend.services.train.transitions import MAX_REDELIVERY_SECONDS
from tests.unit.workers.steps_harness import CID, DONE, StepsHarness, state
from tests.unit.workers.support import CREATOR, RESULT
from workers.inspection import InspectionFailed
from workers.training.folders import home_id
from workers.training.spec import ADAPTER, CHECKPOINTS, COMPLETE, ROWS_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.domain.errors import DomainError
    from backend.domain.ids import Cid
    from backend.domain.training import TrainingJob
    from backend.services.train.leases import LeasedJob
    from tests.unit.workers.support import JobHarness


def test_a_training_process_that_dies_is_tried_again(harness: StepsHarness) -> None:
    job = harness.jobs.job()
    harness.program = "os.kill(os.getpid(), 9)"
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    assert state(harness, job.id) is JobState.RUNNING
    assert harness.jobs.events(job)[-1].kind == "retry"
    harness.jobs.wait(5)
    assert harness.jobs.leases.requeue_expired() == 1
    harness.program = DONE
    harness.run(job.id, Step.TRAIN, Step.PUBLISH)
    assert state(harness, job.id) is JobState.SUCCEEDED


@pytest.mark.parametrize("step", [Step.TRAIN, Step.PUBLISH])
@pytest.mark.parametrize("error", [Unavailable, ContentMissing, ContentCorrupt])
def test_a_job_outlasts_a_block_store_that_is_away_for_hours(
    harness: StepsHarness, step: Step, error: type[DomainError]
) -> None:
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE)
    if step is Step.PUBLISH:
        harness.run(job.id, Step.TRAIN)
    harness.rows.error = harness.store.error = error("the store is away")
    for _ in range(MAX_ATTEMPTS + 1):
        harness.run(job.id, step)
        assert (state(harness, job.id), harness.jobs.training.get(job.id).step) == (JobState.RUNNING, step)
        harness.jobs.wait(1800)
    harness.rows.error = harness.store.error = None
    harness.run(job.id, step, Step.PUBLISH)
    assert state(harness, job.id) is JobState.SUCCEEDED


@pytest.mark.parametrize("step", [Step.VALIDATE, Step.TRAIN])
def test_a_job_outlasts_a_full_disk(harness: StepsHarness, step: Step) -> None:
    job = harness.jobs.job()
    if step is Step.TRAIN:
        harness.run(job.id, Step.VALIDATE)
        harness.program = "say('failed', code='disk_full', message='the disk is full')"
    else:
        harness.rows.error = OSError(errno.ENOSPC, "No space left on device")
    for _ in range(MAX_ATTEMPTS + 1):
        harness.run(job.id, step)
        assert harness.jobs.training.get(job.id).step is step
        harness.jobs.wait(1800)
    harness.rows.error, harness.program = None, DONE
    harness.run(job.id, *Step)
    assert state(harness, job.id) is JobState.SUCCEEDED


def test_a_worker_without_space_only_publishes(
    harness: StepsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, validated, fresh = harness.jobs.job(), harness.jobs.job(), harness.jobs.job()
    harness.run(trained.id, Step.VALIDATE, Step.TRAIN)
    harness.run(validated.id, Step.VALIDATE)
    before = [harness.jobs.training.get(each.id) for each in (validated, fresh)]
    monkeypatch.setattr("workers.steps.LEAST_FREE_BYTES", 1 << 62)
    harness.run(trained.id, Step.PUBLISH)
    harness.run(validated.id, Step.TRAIN)
    harness.run(fresh.id, Step.VALIDATE)
    assert state(harness, trained.id) is JobState.SUCCEEDED
    assert [harness.jobs.training.get(each.id) for each in (validated, fresh)] == before


def test_a_job_whose_training_began_waits_for_space_for_a_day(
    harness: StepsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE)
    harness.program = "os.kill(os.getpid(), 9)"
    harness.run(job.id, Step.TRAIN)
    began = harness.jobs.now
    monkeypatch.setattr("workers.steps.LEAST_FREE_BYTES", 1 << 62)
    while not harness.jobs.training.get(job.id).is_over:
        harness.jobs.wait(MAX_REDELIVERY_SECONDS)
        harness.run(job.id, Step.TRAIN)
    failed = harness.jobs.training.get(job.id)
    assert failed.finished_at is not None
    assert MAX_OUTAGE <= failed.finished_at - began <= MAX_OUTAGE + timedelta(seconds=MAX_REDELIVERY_SECONDS)
    assert failed.error is not None
    assert "disk" in failed.error["message"]


def test_a_job_that_fills_the_disk_frees_what_it_cannot_use(harness: StepsHarness) -> None:
    job = harness.jobs.job()
    harness.program = f"""
home = pathlib.Path(sys.argv[1])
for name in ('checkpoints/checkpoint-2', 'checkpoints/checkpoint-4', '{ADAPTER}.partial'):
    (home / name).mkdir(parents=True)
(home / 'checkpoints/checkpoint-2/{COMPLETE}').touch()
say('failed', code='disk_full', message='the disk is full')
"""
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    folder = harness.folder / job.id
    assert [path.name for path in (folder / CHECKPOINTS).iterdir()] == ["checkpoint-2"]
    assert not (folder / f"{ADAPTER}.partial").exists()
    assert (folder / ROWS_FILE).exists()


def test_content_that_is_missing_at_validation_fails_the_job(harness: StepsHarness) -> None:
    harness.rows.error = ContentMissing("no such block")
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE)
    assert state(harness, job.id) is JobState.FAILED


def deny(jobs: JobHarness, _job: TrainingJob) -> None:
    denied = Subject(Denied.ADAPTER, RESULT.adapter_digest)
    with jobs.database.begin() as tx:
        tx.denials.put(Denial(denied, Reason.LEGAL, jobs.now))


def cancel(jobs: JobHarness, job: TrainingJob) -> None:
    jobs.training.cancel(job.id, CREATOR)


@pytest.mark.parametrize(("end", "last"), [(deny, JobState.FAILED), (cancel, JobState.CANCELLED)])
def test_an_adapter_whose_job_ends_otherwise_while_it_is_published_is_discarded(
    harness: StepsHarness,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[JobHarness, TrainingJob], None],
    last: JobState,
) -> None:
    job, publish = harness.jobs.job(), harness.store.publish
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)

    def publish_and_end(folder: Path) -> Cid:
        end(harness.jobs, job)
        return publish(folder)

    monkeypatch.setattr(harness.store, "publish", publish_and_end)
    harness.run(job.id, Step.PUBLISH)
    assert state(harness, job.id) is last
    assert harness.store.discarded == [job.id]


def test_a_folder_that_cannot_be_deleted_now_stops_no_worker(
    harness: StepsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = harness.jobs.job()

    def discard(_job_id: str) -> None:
        raise Unavailable("the store is away")

    monkeypatch.setattr(harness.store, "discard", discard)
    harness.run(job.id, *Step)
    assert state(harness, job.id) is JobState.SUCCEEDED


def test_an_adapter_that_kills_its_inspection_is_given_up(harness: StepsHarness) -> None:
    job = harness.jobs.job()
    harness.store.error = InspectionFailed("killed")
    harness.run(job.id, *Step)
    for _ in range(MAX_ATTEMPTS):
        harness.jobs.wait(60)
        harness.run(job.id, Step.PUBLISH)
    assert state(harness, job.id) is JobState.FAILED


def lose(job_folder: Path) -> None:
    shutil.rmtree(job_folder)


def damage(job_folder: Path) -> None:
    """As a power failure does."""
    (job_folder / ADAPTER / WEIGHTS_FILE).write_bytes(b"")


@pytest.mark.parametrize("spoil", [lose, damage])
def test_an_adapter_that_is_not_whole_is_waited_for_and_then_trained_again(
    harness: StepsHarness, spoil: Callable[[Path], None]
) -> None:
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    spoil(harness.folder / job.id)
    for _ in range(MAX_ATTEMPTS):
        assert harness.jobs.training.get(job.id).step is Step.PUBLISH
        harness.jobs.wait(60)
        harness.run(job.id, Step.PUBLISH)
    again = harness.jobs.training.get(job.id)
    assert (again.state, again.step, again.result) == (JobState.QUEUED, Step.TRAIN, None)
    assert harness.jobs.offers()[-1] == ("training.train", job.id)
    harness.run(job.id, Step.TRAIN, Step.PUBLISH)
    assert state(harness, job.id) is JobState.SUCCEEDED


def test_the_stored_folder_of_a_result_that_was_lost_is_discarded(
    harness: StepsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    with monkeypatch.context() as patch:
        patch.setattr(harness.leases, "complete_publication", None)  # the worker fails before
        harness.run(job.id, Step.PUBLISH)
    harness.store.cid = cid_of(Hash32("0x" + "ab" * 32))
    harness.jobs.wait(60)
    harness.run(job.id, Step.PUBLISH)
    assert harness.store.forgotten == [CID]
    assert harness.jobs.training.get(job.id).published_cid == harness.store.cid


def test_a_job_that_cannot_be_published_any_more_is_discarded_before_it_is_tried(
    harness: StepsHarness,
) -> None:
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    deny(harness.jobs, job)
    harness.run(job.id, Step.PUBLISH)
    assert (harness.store.folders, harness.store.discarded) == ([], [job.id])


@pytest.mark.parametrize("moment", list(Step))
def test_a_worker_that_vanished_in_any_step_is_succeeded_when_its_lease_is_past(
    harness: StepsHarness, moment: Step
) -> None:
    job = harness.jobs.job()
    for step in Step:
        if step is moment:
            held = harness.leases.acquire(job.id, step, home_id(harness.folder))
            assert held is not None  # and then nothing more is heard of it
            harness.run(job.id, step)
            assert harness.jobs.training.get(job.id).step is step
            harness.jobs.wait(31)
        harness.run(job.id, step)
    assert state(harness, job.id) is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("has_begun", "keeps_rows", "last"),
    [
        (True, True, JobState.SUCCEEDED),
        (True, False, JobState.FAILED),  # as on another machine
        (False, True, JobState.FAILED),
    ],
)
def test_a_withdrawal_does_not_end_a_job_that_trains_on_the_rows(
    harness: StepsHarness, *, has_begun: bool, keeps_rows: bool, last: JobState
) -> None:
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE)
    if has_begun:
        harness.program = "os.kill(os.getpid(), 9)"
        harness.run(job.id, Step.TRAIN)
        harness.jobs.wait(5)
    if not keeps_rows:
        (harness.folder / job.id / ROWS_FILE).write_text("damaged")
    harness.rows.error = ContributionWithdrawn("it was withdrawn")
    harness.program = DONE
    harness.run(job.id, Step.TRAIN, Step.PUBLISH)
    assert state(harness, job.id) is last


class Waiting:
    """A worker in a thread, whose training process runs until it is ended."""

    def __init__(self, harness: StepsHarness, job_id: str) -> None:
        harness.program = "say('progress', step=1)\ntime.sleep(600)"
        self._begun = threading.Event()
        self.steps = harness.worker()
        report = harness.leases.record_event

        def watched(held: LeasedJob, kind: str, data: Any) -> None:
            report(held, kind, data)
            self._begun.set()

        harness.leases.record_event = watched  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self.steps.train, args=(job_id,))
        self._thread.start()
        assert self._begun.wait(60)

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def waiting(harness: StepsHarness) -> Callable[[], tuple[Waiting, str]]:
    def start() -> tuple[Waiting, str]:
        job = harness.jobs.job()
        harness.run(job.id, Step.VALIDATE)
        return Waiting(harness, job.id), job.id

    return start


def test_cancelling_a_running_job_ends_its_training(harness: StepsHarness, waiting: Any) -> None:
    worker, job_id = waiting()
    harness.jobs.training.cancel(job_id, CREATOR)
    worker.join()
    assert state(harness, job_id) is JobState.CANCELLED


def test_a_stopping_worker_gives_its_job_to_the_next(harness: StepsHarness, waiting: Any) -> None:
    worker, job_id = waiting()
    worker.steps.stop()
    worker.join()
    assert harness.jobs.training.get(job_id).lease.owner is None
    assert harness.leases.requeue_expired() == 1
    harness.program = DONE
    harness.run(job_id, Step.TRAIN, Step.PUBLISH)
    assert state(harness, job_id) is JobState.SUCCEEDED


def test_a_stopping_worker_begins_no_step(harness: StepsHarness) -> None:
    """Celery takes one more message after the signal; what it is about is offered again."""
    job = harness.jobs.job()
    stopping, other = harness.worker(), harness.worker()
    stopping.stop()
    stopping.run(Step.VALIDATE, job.id)
    assert harness.jobs.training.get(job.id).step is Step.VALIDATE
    other.run(Step.VALIDATE, job.id)
    assert harness.jobs.training.get(job.id).step is Step.TRAIN


def test_a_worker_that_lost_its_lease_stops_and_leaves_the_job_to_its_successor(
    harness: StepsHarness, waiting: Any
) -> None:
    worker, job_id = waiting()
    with harness.jobs.database.begin() as tx:  # as a successor does after the expiry
        job = tx.training.locked(job_id)
        assert job is not None
        tx.training.save(replace(job, lease=replace(job.lease, owner="another worker")))
    worker.join()
    assert harness.jobs.training.get(job_id).lease.owner == "another worker"
    assert state(harness, job_id) is JobState.RUNNING


def test_a_heartbeat_survives_a_database_that_is_away_for_a_moment(
    harness: StepsHarness, waiting: Any
) -> None:
    failures = iter([OSError("away")] * 3)
    renew = Leases.renew

    def flaky(held: LeasedJob) -> bool:
        for error in failures:
            raise error
        return renew(harness.leases, held)

    harness.leases.renew = flaky  # type: ignore[method-assign]
    worker, job_id = waiting()
    harness.jobs.training.cancel(job_id, CREATOR)
    worker.join()
    assert state(harness, job_id) is JobState.CANCELLED
