"""Workers of several machines, whose folders of results are their own."""

from __future__ import annotations

import shutil
import sys
import threading
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.domain.training import JobState, Step
from backend.services.contribute.snapshot import ContributionWithdrawn
from backend.services.contribute.transfers import Transfers
from backend.services.train.imported import ImportedAdapters
from backend.services.train.leases import MAX_ATTEMPTS, RESULT_WAIT
from tests.unit.workers.steps_harness import (
    ADAPTER_FILES,
    DONE,
    SAY,
    FakePublication,
    FakeScreening,
)
from tests.unit.workers.support import (
    BASE,
    CREATOR,
    RESULT,
    InMemoryRows,
    JobHarness,
    letter_rows,
    transferred,
)
from workers.app import QUEUES, run_task
from workers.steps import Steps, TrainerOptions
from workers.training.folders import RETENTION, home_id, sweep_folders
from workers.training.spec import ADAPTER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.training import TrainingJob

LONG_STEP = timedelta(hours=10)


class Market:
    """The database, the store and the uploads that all machines share."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.jobs = JobHarness(database)
        self.folder = folder
        self.store = FakePublication(self.jobs)
        self.transfers = Transfers(folder / "transfers", 1 << 20)
        self.imports = ImportedAdapters(database, self.transfers, lambda: self.jobs.now)

    def machine(self, name: str, queues: Sequence[str] = QUEUES) -> Machine:
        return Machine(self, name, queues)

    def create_import(self) -> TrainingJob:
        files = {name: transferred(self.transfers, CREATOR, b"x") for name in ADAPTER_FILES}
        return self.imports.create(CREATOR, "MIT", files)

    def wait(self, time: timedelta) -> None:
        self.jobs.wait(time.total_seconds())

    def job(self, job_id: str) -> TrainingJob:
        with self.jobs.database.read() as tx:
            job = tx.training.get(job_id)
        assert job is not None
        return job


class Machine:
    """A worker with a home of its own; `name`: of its folder. It takes messages one after the other."""

    def __init__(self, market: Market, name: str, queues: Sequence[str]) -> None:
        self.home = market.folder / name / "training"
        self.market = market
        self.rows = InMemoryRows(letter_rows())
        self.program = DONE
        self.steps = self._steps()
        self._queues = queues

    def _steps(self) -> Steps:
        def command(folder: Path) -> list[str]:
            return [sys.executable, "-c", SAY + self.program, str(folder)]

        market, cache = self.market, self.home / "cache"
        sweep = partial(sweep_folders, self.home, market.jobs.training, lambda: market.jobs.now)
        options = TrainerOptions(
            self.home, cache, 1, {BASE.digest: ""}, command, transfers=market.transfers, sweeps=[sweep]
        )
        return Steps(market.jobs.leases, self.rows, FakeScreening(), market.store, options)  # type: ignore[arg-type]

    def receive(self, task: str, job: TrainingJob) -> None:
        run_task(self.steps, task, job.id, self._queues)

    def train(self) -> TrainingJob:
        """A new job whose training this machine ends."""
        job = self.market.jobs.job()
        self.receive("training.validate", job)
        self.receive("training.train", job)
        return self.market.job(job.id)


@pytest.fixture
def market(sqlite_database: Database, tmp_path: Path) -> Market:
    return Market(sqlite_database, tmp_path)


def offer(machine: Machine, job: TrainingJob, task: str = "training.publish") -> None:
    """Offer the job's publication more often than a step is attempted, over `LONG_STEP`."""
    num_offers = 3 * MAX_ATTEMPTS
    for _ in range(num_offers):
        machine.receive(task, job)
        machine.market.wait(LONG_STEP / num_offers)


def test_a_worker_that_trains_also_publishes_before_the_next_message(market: Market) -> None:
    owner = market.machine("a")
    job = owner.train()
    assert job.state is JobState.SUCCEEDED
    owner.receive("training.publish", job)  # the message that was sent when training ended
    assert market.store.folders == [owner.home.resolve() / job.id / ADAPTER]


def test_a_result_waits_for_its_busy_worker_and_is_not_trained_again(market: Market) -> None:
    owner, other = market.machine("a"), market.machine("b")
    market.store.error = Unavailable("no route to the store")
    job = owner.train()  # the owner takes the next message, which it works on for hours
    market.store.error = None
    num_events = len(market.jobs.events(job))
    offer(other, job)
    waiting = market.job(job.id)
    assert (waiting.step, waiting.result, waiting.lease.attempt) == (Step.PUBLISH, RESULT, 0)
    assert len(market.jobs.events(job)) == num_events
    owner.train()
    assert market.job(job.id).state is JobState.SUCCEEDED
    assert {folder.parent.parent for folder in market.store.folders} == {owner.home.resolve()}


def test_a_worker_publishes_what_it_has_before_it_trains_for_hours(market: Market) -> None:
    market.store.error = Unavailable("no route to the store")
    job = market.machine("a").train()
    market.store.error = None
    market.wait(timedelta(minutes=1))
    restarted, following = market.machine("a"), market.jobs.job()
    restarted.receive("training.validate", following)
    assert market.job(job.id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("queues", [("train",), ("train", "import"), ("import",)])
def test_a_worker_without_the_queue_of_publications_leaves_them_to_one_of_its_home(
    market: Market, queues: Sequence[str]
) -> None:
    """It need not have the receipt key."""
    job = market.machine("a", queues).train()
    assert (job.step, job.lease.attempt) == (Step.PUBLISH, 0)
    market.machine("a", ("publish",)).receive("training.publish", job)
    assert market.job(job.id).state is JobState.SUCCEEDED


def test_the_result_of_a_dead_worker_is_trained_again_after_the_wait(market: Market) -> None:
    job = market.machine("a", ("train",)).train()
    other = market.machine("b", ("train",))
    market.wait(RESULT_WAIT - timedelta(seconds=1))
    other.receive("training.publish", job)
    assert market.job(job.id).step is Step.PUBLISH
    market.wait(timedelta(seconds=1))
    other.receive("training.publish", job)
    again = market.job(job.id)
    assert (again.state, again.step, again.result) == (JobState.QUEUED, Step.TRAIN, None)
    other.receive("training.train", job)
    market.machine("b").receive("training.publish", job)
    assert market.job(job.id).state is JobState.SUCCEEDED
    assert market.store.folders == [other.home.resolve() / job.id / ADAPTER]


def test_a_worker_that_dies_when_the_wait_is_over_is_succeeded_by_another(market: Market) -> None:
    job = market.machine("a", ("train",)).train()
    other = market.machine("b")
    market.wait(RESULT_WAIT)
    assert market.jobs.leases.acquire(job.id, Step.PUBLISH, home_id(other.home)) is not None
    market.wait(timedelta(seconds=31))  # of the one that took the lease, no more is heard
    other.receive("training.publish", job)
    assert market.job(job.id).step is Step.TRAIN


def test_a_worker_that_returns_late_does_not_publish_a_result_that_another_replaced(market: Market) -> None:
    """On another class of CPUs the job's second adapter has another digest."""
    owner, other = market.machine("a", ("train",)), market.machine("b", ("train",))
    job = owner.train()
    market.wait(RESULT_WAIT)
    other.receive("training.publish", job)
    other.receive("training.train", job)
    market.machine("a").receive("training.publish", job)
    assert market.store.folders == []
    assert market.job(job.id).step is Step.PUBLISH
    market.machine("b").receive("training.publish", job)
    assert market.store.folders == [other.home.resolve() / job.id / ADAPTER]


def test_a_result_that_is_lost_in_the_home_of_its_worker_is_not_waited_for(market: Market) -> None:
    owner = market.machine("a", ("train",))
    job = owner.train()
    shutil.rmtree(owner.home / job.id)
    for _ in range(MAX_ATTEMPTS):
        assert market.job(job.id).step is Step.PUBLISH
        owner.receive("training.publish", job)
        market.wait(timedelta(seconds=60))
    assert market.job(job.id).step is Step.TRAIN


def test_a_job_whose_result_is_always_lost_ends(market: Market) -> None:
    machines = [market.machine(name, ("train",)) for name in "abcde"]
    job = machines[0].train()
    for machine in machines[1:]:
        market.wait(RESULT_WAIT)
        machine.receive("training.publish", job)
        machine.receive("training.train", job)
    market.wait(RESULT_WAIT)
    machines[0].receive("training.publish", job)
    failed = market.job(job.id)
    assert failed.error is not None
    assert (failed.state, failed.error["code"]) == (JobState.FAILED, "given_up")


def test_withdrawn_rows_leave_a_job_to_the_machine_that_has_them(market: Market) -> None:
    owner, other = market.machine("a"), market.machine("b")
    job = market.jobs.job()
    owner.receive("training.validate", job)
    owner.program = "say('checkpoint', step=2)\nos.kill(os.getpid(), 9)"
    owner.receive("training.train", job)
    for machine in (owner, other):
        machine.rows.error = ContributionWithdrawn("it was withdrawn")
    offer(other, job, "training.train")
    assert market.job(job.id).step is Step.TRAIN
    owner.program = DONE
    owner.receive("training.train", job)
    assert market.job(job.id).state is JobState.SUCCEEDED


def test_an_imported_adapter_waits_for_its_worker_too(market: Market) -> None:
    """Its upload is deleted when it is validated: another worker could not validate it again."""
    owner, other = market.machine("a", ("train",)), market.machine("b")
    job = market.create_import()
    owner.receive("import.validate", job)
    offer(other, job, "import.publish")
    assert market.job(job.id).step is Step.PUBLISH
    market.machine("a").receive("import.publish", job)
    assert market.job(job.id).state is JobState.SUCCEEDED


def test_a_worker_that_is_asked_to_stop_begins_no_publication(market: Market) -> None:
    owner = market.machine("a")
    job = market.jobs.job()
    owner.receive("training.validate", job)
    owner.steps.stop()
    market.machine("a", ("train",)).receive("training.train", job)
    owner.steps.publish_results(are_imported=False)
    assert market.job(job.id).step is Step.PUBLISH


def test_a_machine_without_a_relay_removes_the_folders_of_its_finished_jobs(market: Market) -> None:
    owner = market.machine("a")
    finished = owner.train()
    market.wait(RETENTION)
    following = owner.train()
    assert (owner.home / finished.id).is_dir()
    market.wait(timedelta(seconds=1))
    owner.receive("training.publish", following)
    assert not (owner.home / finished.id).exists()


def test_workers_of_one_home_have_one_id(tmp_path: Path) -> None:
    found: list[str] = []
    start = threading.Barrier(6)

    def read() -> None:
        start.wait()
        found.append(home_id(tmp_path / "training"))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert home_id(tmp_path / "training") == found[0] != home_id(tmp_path / "elsewhere")
