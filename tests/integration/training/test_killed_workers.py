"""Training of a tiny model by real workers over real brokers, killed at critical steps."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from backend.domain.adapter_files import MAX_BYTES
from backend.domain.training import JobState
from backend.services.contribute.transfers import Transfers
from backend.services.train.imported import ImportedAdapters
from backend.services.train.jobs import Training
from backend.storage.embedded import EmbeddedStore
from inference.model.base_model import base_model_digest
from tests.fixtures_engine import edit_adapter, make_adapter, make_model, peft_warnings_ignored
from tests.support.servers import redis_server
from tests.unit.workers.support import CREATOR, PAID, PAYEE, TRAINING, JobHarness, transferred
from workers.app import create_app
from workers.relay import Relay
from workers.training.job import run_job
from workers.training.spec import ADAPTER, CHECKPOINTS, ROWS_FILE, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.training import JobEvent, TrainingJob

CONFIG = {"rank": 4, "learning_rate": 0.01, "batch_size": 2, "epochs": 8, "checkpoint_steps": 4, "seed": 3}
FUNDS = 1 << 40
PROGRAM = Path(__file__).with_name("worker_process.py")


class WorkerProcesses:
    """Worker processes that share one job."""

    def __init__(
        self,
        database: Database,
        home: Path,
        config: dict[str, Any],
        lease_seconds: float = 10,
        broker_url: str = "",
    ) -> None:
        self.home = home
        self.database = database
        self.base_folder = make_model(home / "tiny-llama")
        url = database.engine.url.render_as_string(hide_password=False)
        setup = {
            "database_url": url,
            "base_folder": str(self.base_folder),
            "base_digest": f"0x{base_model_digest(self.base_folder)}",
            "lease_seconds": lease_seconds,
            "broker_url": broker_url,
        }
        (home / "setup.json").write_text(json.dumps(setup))
        self.transfers = Transfers(home / "transfers", 1 << 30)
        self.imports = ImportedAdapters(database, self.transfers)
        self.training = Training(database, PAID)
        harness = JobHarness(database)
        harness.fund(FUNDS)
        self.job = self.training.create(CREATOR, harness.snapshot(True, True), config)

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        with (self.home / "worker.log").open("ab") as log:
            command = [sys.executable, str(PROGRAM), str(self.home)]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def until(self, is_reached: Callable[[TrainingJob, list[JobEvent]], bool]) -> TrainingJob:
        """Wait for a state of the job; pytest's timeout bounds the wait."""
        while True:
            job = self.training.get(self.job.id)
            if is_reached(job, list(self.training.events(job.id, limit=10_000))):
                return job
            assert job.state is not JobState.FAILED, (job.error, (self.home / "worker.log").read_text())
            time.sleep(0.05)

    def create_import(self) -> TrainingJob:
        """Import an adapter that was trained elsewhere."""
        folder = self.home / "elsewhere"
        edit_adapter(make_adapter(folder, self.base_folder), base_model_name_or_path="tiny-llama")
        files = {
            name: transferred(self.transfers, CREATOR, (folder / name).read_bytes()) for name in MAX_BYTES
        }
        return self.imports.create(CREATOR, "MIT", files)

    def check_charged(self, *jobs: TrainingJob) -> None:
        """Assert that each of these jobs was charged once, and that nothing else is charged or reserved."""
        with self.database.read() as tx:
            receipts = [stored.signed.receipt for stored in tx.receipts.page(CREATOR, None, 100)]
            assert tx.channels.reservations([PAYEE.channel(CREATOR)]) == []
        counted = [int(job.result.metrics["num_charged_tokens"]) for job in jobs if job.result is not None]
        assert sorted(receipt.prompt_tokens for receipt in receipts) == sorted(counted)
        assert len(counted) == len(jobs)
        assert all(receipt.charge == receipt.prompt_tokens * TRAINING.prompt_price for receipt in receipts)

    def undisturbed(self) -> dict[str, bytes]:
        """The result of the same job without kills."""
        done, folder = self.home / "training" / self.job.id, self.home / "undisturbed"
        folder.mkdir()
        (folder / ROWS_FILE).write_bytes((done / ROWS_FILE).read_bytes())
        with peft_warnings_ignored():
            run_job(replace(TrainingSpec.load(done), num_threads=1), folder, lambda *_: None)
        return contents(folder / ADAPTER)


@dataclass(frozen=True)
class KillPoint:
    """Kill the worker after this many events and checkpoints."""

    num_events: int
    num_checkpoints: int

    def is_reached(self, _job: TrainingJob, events: list[JobEvent]) -> bool:
        return len(events) >= self.num_events and len(checkpoints_of(events)) >= self.num_checkpoints


def checkpoints_of(events: list[JobEvent]) -> list[JobEvent]:
    return [event for event in events if event.kind == "checkpoint"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def steps_of(events: list[JobEvent]) -> list[int]:
    return [event.data["step"] for event in events if event.kind == "progress"]


@pytest.fixture
def workers(sqlite_database: Database, tmp_path: Path) -> WorkerProcesses:
    return WorkerProcesses(sqlite_database, tmp_path, CONFIG)


def relay_of_farm(workers: WorkerProcesses, broker_url: str) -> Relay:
    app = create_app(workers.home, broker_url)
    return Relay(workers.database, lambda task, payload: app.send_task(task, kwargs=dict(payload)), ())


@pytest.fixture(params=["files", pytest.param("redis", marks=pytest.mark.deep)])
def broker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "files":
        yield ""
        return
    with redis_server() as url:
        yield url


def test_a_job_outlives_its_killed_worker_and_ends_as_if_nothing_had_happened(
    sqlite_database: Database, tmp_path: Path, broker_url: str
) -> None:
    """Redis keeps the message that the killed worker had for an hour; the lease does not wait for it."""
    workers = WorkerProcesses(sqlite_database, tmp_path, CONFIG, broker_url=broker_url)
    with workers.worker() as worker:
        workers.until(lambda _, events: max(steps_of(events), default=0) >= 6)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    # Nothing is written between the two workers. Killed on a checkpoint, the job repeats no step; where its
    # process was far ahead of what the worker had heard, none may be left.
    num_before = len(steps_of(list(workers.training.events(workers.job.id))))
    with workers.worker():
        job = workers.until(lambda job, _: job.state is JobState.SUCCEEDED)
        workers.until(lambda *_: not (tmp_path / "training" / job.id / CHECKPOINTS).exists())
    steps = steps_of(list(workers.training.events(job.id)))
    assert all(step > 4 for step in steps[num_before:])  # from a checkpoint, not from the beginning
    assert job.cid is not None
    EmbeddedStore(tmp_path / "ipfs").fetch_folder(job.cid, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == workers.undisturbed()
    workers.check_charged(job)


@pytest.mark.parametrize(
    ("num_kills", "epochs", "lease_seconds"),
    [
        pytest.param(5, 8, 3, marks=[pytest.mark.deep, pytest.mark.timeout(900)]),
        pytest.param(50, 60, 10, marks=[pytest.mark.deep, pytest.mark.timeout(7200)]),
    ],
)
def test_a_job_ends_alike_however_often_its_workers_are_killed(
    sqlite_database: Database, tmp_path: Path, num_kills: int, epochs: int, lease_seconds: int
) -> None:
    """At random moments: every other time behind a new checkpoint, else mostly before one. A step that dies
    five times between two checkpoints is given up, so how far it got is what checkpoints say, not events: a
    busy machine has more of those. A lease that a starved worker loses counts as a death: a long loop has a
    long one.
    """
    config = {**CONFIG, "epochs": epochs, "checkpoint_steps": 2}
    workers = WorkerProcesses(sqlite_database, tmp_path, config, lease_seconds)
    dice = random.Random(num_kills)
    for number in range(num_kills):
        seen = list(workers.training.events(workers.job.id, limit=10_000))
        wanted = KillPoint(len(seen) + dice.randint(0, 3), len(checkpoints_of(seen)) + (number + 1) % 2)
        with workers.worker() as worker:
            workers.until(wanted.is_reached)
            time.sleep(dice.uniform(0, 0.3))
            worker.send_signal(signal.SIGKILL)
        assert not workers.training.get(workers.job.id).is_over, f"it was over before kill {number + 1}"
    with workers.worker():
        job = workers.until(lambda job, _: job.state is JobState.SUCCEEDED)
    kinds = [event.kind for event in workers.training.events(job.id, limit=10_000)]
    assert kinds.count("published") == kinds.count("charged") == 1
    workers.check_charged(job)
    assert job.cid is not None
    EmbeddedStore(tmp_path / "ipfs").fetch_folder(job.cid, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == workers.undisturbed()


def test_a_broker_that_forgets_everything_loses_no_job(sqlite_database: Database, tmp_path: Path) -> None:
    """The messages are lost before any worker saw them; what is to be done stands in the database."""
    with redis_server() as url:
        workers = WorkerProcesses(sqlite_database, tmp_path, {**CONFIG, "epochs": 0.1}, broker_url=url)
        relay_of_farm(workers, url).run_once()
        client = Redis(unix_socket_path=url.removeprefix("redis+socket://"))
        assert client.llen("publish") == 1
        client.flushall()
        client.close()
        with sqlite_database.begin() as tx:  # as if its time had come
            job = tx.training.locked(workers.job.id)
            assert job is not None
            tx.training.save(replace(job, lease=replace(job.lease, until=job.created_at)))
        with workers.worker():
            workers.until(lambda job, _: job.state is JobState.SUCCEEDED)


def test_cancelling_reaches_a_worker_that_trains(workers: WorkerProcesses) -> None:
    with workers.worker():
        workers.until(lambda _, events: bool(steps_of(events)))
        workers.training.cancel(workers.job.id, CREATOR)
        seen = len(workers.training.events(workers.job.id))
        second = workers.training.create(CREATOR, workers.job.snapshot_id, {**CONFIG, "epochs": 0.1})
        # The worker is alone: that it ends the second job shows that it has let the first one go.
        workers.until(lambda *_: workers.training.get(second.id).state is JobState.SUCCEEDED)
    assert workers.training.get(workers.job.id).state is JobState.CANCELLED
    workers.check_charged(workers.training.get(second.id))
    assert len(workers.training.events(workers.job.id)) == seen


def test_a_worker_that_is_asked_to_stop_gives_its_job_back(workers: WorkerProcesses) -> None:
    with workers.worker() as worker:
        workers.until(lambda _, events: bool(steps_of(events)))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert workers.training.get(workers.job.id).lease.owner is None


NOTED = (("step", "validate"), ("state", "running"), ("step", "publish"), ("message", ""))
"""What is noted of an adapter from elsewhere, in order."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kill_points", [NOTED[::3], pytest.param(NOTED, marks=pytest.mark.deep)])
def test_an_adapter_from_elsewhere_is_published_once_however_often_its_workers_are_killed(
    sqlite_database: Database, tmp_path: Path, kill_points: Sequence[tuple[str, str]]
) -> None:
    workers = WorkerProcesses(sqlite_database, tmp_path, {**CONFIG, "epochs": 0.1}, lease_seconds=1)
    workers.training.cancel(workers.job.id, CREATOR)
    job = workers.create_import()
    events = partial(workers.imports.events, job.id, CREATOR)
    for name, value in kill_points:
        with workers.worker() as worker:
            workers.until(lambda *_, n=name, v=value: any(v in event.data.get(n, ()) for event in events()))
            worker.send_signal(signal.SIGKILL)
    with workers.worker():
        workers.until(lambda *_: workers.imports.get(job.id).is_over)
        is_done = workers.imports.get(job.id).state is JobState.SUCCEEDED
        workers.until(lambda *_: not is_done or not workers.transfers.find(CREATOR))
    done = workers.imports.get(job.id)
    assert (done.state, done.error) == (JobState.SUCCEEDED, None), (tmp_path / "worker.log").read_text()
    kinds = [event.kind for event in events()]
    assert kinds.count("published") == 1
    assert done.cid is not None
    EmbeddedStore(tmp_path / "ipfs").fetch_folder(done.cid, tmp_path / "fetched")
    fetched, sent = contents(tmp_path / "fetched"), contents(tmp_path / "elsewhere")
    assert fetched.keys() == MAX_BYTES.keys() | {"README.md"}
    assert all(fetched[name] == sent[name] for name in MAX_BYTES)
    assert not workers.transfers.find(CREATOR)
    workers.check_charged()  # nothing: it was trained elsewhere
