from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import Unavailable
from backend.domain.ids import Cid
from backend.domain.screening import ScreeningReport
from backend.domain.training import JobState, Step
from backend.services.contribute.transfers import Transfers
from backend.services.train.imported import CONFIG_FILE, WEIGHTS_FILE, ImportedAdapters
from backend.services.train.leases import MAX_ATTEMPTS, Leases
from backend.services.train.parents import Parent, reject_parent
from tests.unit.workers.support import CREATOR, RESULT, Desk, Rows, letter_rows, transferred
from workers.steps import Steps, TrainerOptions
from workers.training.spec import ADAPTER, ROWS_FILE, UPLOADED, ImportSpec, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import VersionId
    from backend.domain.training import TrainingJob
    from backend.services.train.leases import LeasedJob

CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
RESULT_JSON = {
    "adapter_digest": RESULT.adapter_digest,
    "base_model": RESULT.base_model,
    "metrics": dict(RESULT.metrics),
}
SAY = """
import json, os, pathlib, sys, time

def say(kind, **data):
    print(json.dumps({"kind": kind, "data": data}), flush=True)

"""
DONE = f"""
say('progress', step=1, loss=2.0)
(pathlib.Path(sys.argv[1]) / {ADAPTER!r}).mkdir(exist_ok=True)
say('done', **{RESULT_JSON!r})
"""


ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)


class Store:
    """Stands for `Publication`: where folders go."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.error: Exception | None = None

    def publish(self, folder: Path) -> Cid:
        if self.error is not None:
            raise self.error
        self.folders.append(folder)
        return CID


class Keeper:
    """Stands for `JobScreening`: says the same of everything."""

    def report(self, job: TrainingJob, job_folder: Path) -> ScreeningReport:
        return ScreeningReport(None, None, 0, 0)


class Workshop:
    """Workers over one desk; `program` is what their training processes run."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.folder = folder
        self.rows = Rows(letter_rows())
        self.store = Store()
        self.parents: dict[VersionId, Parent] = {}
        self.transfers = Transfers(folder.parent / "transfers", 1 << 20)
        self.imports = ImportedAdapters(desk.database, self.transfers, lambda: desk.now)
        self.program = DONE
        self.leases = desk.leases
        self.leases.heartbeat_seconds = 0.02

    def worker(self) -> Steps:
        def command(folder: Path) -> list[str]:
            return [sys.executable, "-c", SAY + self.program, str(folder)]

        bring = self.parents.__getitem__ if self.parents else reject_parent
        cache = self.folder / "cache"
        options = TrainerOptions(self.folder, cache, 1, "", command, bring, transfers=self.transfers)
        return Steps(self.leases, self.rows, Keeper(), self.store, options)  # type: ignore[arg-type]

    def brought(self) -> TrainingJob:
        """An adapter that was trained elsewhere."""
        sent = {name: transferred(self.transfers, CREATOR, name.encode()) for name in ADAPTER_FILES}
        return self.imports.create(CREATOR, "MIT", sent)

    def run(self, job_id: str, *steps: Step) -> None:
        for step in steps:
            self.worker().run(step, job_id)


@pytest.fixture
def shop(sqlite_database: Database, tmp_path: Path) -> Workshop:
    return Workshop(Desk(sqlite_database), tmp_path / "training")


def state(shop: Workshop, job_id: str) -> JobState:
    return shop.desk.training.get(job_id).state


def test_three_steps_make_a_job_succeed(shop: Workshop) -> None:
    job = shop.desk.job(rank=4)
    shop.run(job.id, *Step)
    done = shop.desk.training.get(job.id)
    assert (done.state, done.result, done.cid) == (JobState.SUCCEEDED, RESULT, CID)
    assert shop.store.folders == [shop.folder.resolve() / job.id / ADAPTER]
    spec = TrainingSpec.load(shop.folder / job.id)
    assert (spec.config, spec.snapshots, spec.licences) == (job.config, (job.snapshot_id,), ("MIT",))
    lines = [json.loads(line) for line in (shop.folder / job.id / ROWS_FILE).read_text().splitlines()]
    assert [(line["contribution"], line["row"]) for line in lines] == letter_rows()
    assert {"step": 1, "loss": 2.0} in [event.data for event in shop.desk.events(job)]
    kinds = [event.kind for event in shop.desk.events(job)]
    assert kinds.index("screening") < kinds.index("published")


def test_the_parent_of_a_warm_start_is_brought_and_named_to_the_trainer(shop: Workshop) -> None:
    snapshot = shop.desk.snapshot(True, True)
    parent = shop.desk.version(shop.desk.snapshot(True))
    job = shop.desk.training.create(CREATOR, snapshot, {"parent": parent})
    shop.run(job.id, Step.VALIDATE)
    assert state(shop, job.id) is JobState.FAILED  # this worker fetches none
    error = shop.desk.training.get(job.id).error
    assert error is not None
    assert (error["code"], parent in error["message"]) == ("invalid_parent", True)

    with shop.desk.database.read() as tx:
        record = tx.chain.version(parent)
    assert record is not None
    shop.parents[parent] = Parent(record, shop.folder)
    job = shop.desk.training.create(CREATOR, snapshot, {"parent": parent})
    shop.run(job.id, Step.VALIDATE, Step.TRAIN)
    spec = TrainingSpec.load(shop.folder / job.id)
    assert spec.snapshots == (snapshot, record.snapshots[0])
    assert (spec.parent_folder, spec.parent_base) == (str(shop.folder.resolve()), record.base_model)


def test_a_task_delivered_again_changes_nothing(shop: Workshop) -> None:
    job = shop.desk.job()
    for step in Step:
        shop.run(job.id, *Step)
        shop.run(job.id, step, step)
    assert len(shop.store.folders) == 1
    assert [event.data.get("attempt") for event in shop.desk.events(job) if "step" in event.data].count(
        1
    ) == 3


def test_a_snapshot_whose_rows_are_gone_fails_the_job(shop: Workshop) -> None:
    shop.rows.content = []
    job = shop.desk.job()
    shop.run(job.id, Step.VALIDATE)
    failed = shop.desk.training.get(job.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "empty_snapshot"


def test_rows_that_changed_since_validation_fail_the_job(shop: Workshop) -> None:
    job = shop.desk.job()
    shop.run(job.id, Step.VALIDATE)
    shop.rows.content.pop()
    shop.run(job.id, Step.TRAIN)
    failed = shop.desk.training.get(job.id)
    assert failed.error is not None
    assert failed.error["code"] == "dataset_changed"


def test_a_diverged_training_fails_the_job_with_its_step(shop: Workshop) -> None:
    shop.program = "say('failed', code='non_finite_loss', message='the loss is nan at step 7', step=7)"
    job = shop.desk.job()
    shop.run(job.id, Step.VALIDATE, Step.TRAIN)
    assert shop.desk.training.get(job.id).error == {
        "code": "non_finite_loss",
        "message": "the loss is nan at step 7",
        "step": 7,
    }


def test_a_training_process_that_dies_is_tried_again(shop: Workshop) -> None:
    job = shop.desk.job()
    shop.program = "os.kill(os.getpid(), 9)"
    shop.run(job.id, Step.VALIDATE, Step.TRAIN)
    assert state(shop, job.id) is JobState.RUNNING
    assert shop.desk.events(job)[-1].kind == "retry"
    shop.desk.wait(5)
    assert shop.desk.leases.requeue_expired() == 1
    shop.program = DONE
    shop.run(job.id, Step.TRAIN, Step.PUBLISH)
    assert state(shop, job.id) is JobState.SUCCEEDED


def test_a_block_store_that_is_away_is_tried_again(shop: Workshop) -> None:
    job = shop.desk.job()
    shop.store.error = Unavailable("no route to the store")
    shop.run(job.id, *Step)
    assert state(shop, job.id) is JobState.RUNNING
    shop.store.error = None
    shop.desk.wait(5)
    shop.run(job.id, Step.PUBLISH)
    assert state(shop, job.id) is JobState.SUCCEEDED


def test_an_adapter_that_lies_elsewhere_is_waited_for_and_then_trained_again(shop: Workshop) -> None:
    job = shop.desk.job()
    shop.run(job.id, Step.VALIDATE, Step.TRAIN)
    shutil.rmtree(shop.folder / job.id)  # another worker, without the folder of the one that trained
    for _ in range(MAX_ATTEMPTS):
        assert shop.desk.training.get(job.id).step is Step.PUBLISH
        shop.desk.wait(60)
        shop.run(job.id, Step.PUBLISH)
    again = shop.desk.training.get(job.id)
    assert (again.state, again.step, again.result) == (JobState.QUEUED, Step.TRAIN, None)
    assert shop.desk.offers()[-1] == ("training.train", job.id)
    shop.run(job.id, Step.TRAIN, Step.PUBLISH)
    assert state(shop, job.id) is JobState.SUCCEEDED


@pytest.mark.parametrize("moment", list(Step))
def test_a_worker_that_vanished_in_any_step_is_succeeded_when_its_lease_is_past(
    shop: Workshop, moment: Step
) -> None:
    job = shop.desk.job()
    for step in Step:
        if step is moment:
            assert shop.leases.acquire(job.id, step) is not None  # and then nothing more is heard of it
            shop.run(job.id, step)
            assert shop.desk.training.get(job.id).step is step
            shop.desk.wait(31)
        shop.run(job.id, step)
    assert state(shop, job.id) is JobState.SUCCEEDED


class Waiting:
    """A worker in a thread, whose training process runs until it is ended."""

    def __init__(self, shop: Workshop, job_id: str) -> None:
        shop.program = "say('progress', step=1)\ntime.sleep(600)"
        self._begun = threading.Event()
        self.steps = shop.worker()
        report = shop.leases.record_event

        def watched(held: LeasedJob, kind: str, data: Any) -> None:
            report(held, kind, data)
            self._begun.set()

        shop.leases.record_event = watched  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self.steps.train, args=(job_id,))
        self._thread.start()
        assert self._begun.wait(60)

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def waiting(shop: Workshop) -> Callable[[], tuple[Waiting, str]]:
    def start() -> tuple[Waiting, str]:
        job = shop.desk.job()
        shop.run(job.id, Step.VALIDATE)
        return Waiting(shop, job.id), job.id

    return start


def test_cancelling_a_running_job_ends_its_training(shop: Workshop, waiting: Any) -> None:
    worker, job_id = waiting()
    shop.desk.training.cancel(job_id, CREATOR)
    worker.join()
    assert state(shop, job_id) is JobState.CANCELLED


def test_a_stopping_worker_gives_its_job_to_the_next(shop: Workshop, waiting: Any) -> None:
    worker, job_id = waiting()
    worker.steps.stop()
    worker.join()
    assert shop.desk.training.get(job_id).lease.owner is None
    assert shop.leases.requeue_expired() == 1
    shop.program = DONE
    shop.run(job_id, Step.TRAIN, Step.PUBLISH)
    assert state(shop, job_id) is JobState.SUCCEEDED


def test_a_worker_that_lost_its_lease_stops_and_leaves_the_job_to_its_successor(
    shop: Workshop, waiting: Any
) -> None:
    worker, job_id = waiting()
    with shop.desk.database.begin() as tx:  # as a successor does after the expiry
        job = tx.training.locked(job_id)
        assert job is not None
        tx.training.save(replace(job, lease=replace(job.lease, owner="another worker")))
    worker.join()
    assert shop.desk.training.get(job_id).lease.owner == "another worker"
    assert state(shop, job_id) is JobState.RUNNING


def test_a_heartbeat_survives_a_database_that_is_away_for_a_moment(shop: Workshop, waiting: Any) -> None:
    failures = iter([OSError("away")] * 3)
    renew = Leases.renew

    def flaky(held: LeasedJob) -> bool:
        for error in failures:
            raise error
        return renew(shop.leases, held)

    shop.leases.renew = flaky  # type: ignore[method-assign]
    worker, job_id = waiting()
    shop.desk.training.cancel(job_id, CREATOR)
    worker.join()
    assert state(shop, job_id) is JobState.CANCELLED


def test_an_adapter_from_elsewhere_is_looked_at_and_published_without_any_training(shop: Workshop) -> None:
    job = shop.brought()
    shop.run(job.id, Step.VALIDATE)
    folder = shop.folder / job.id
    assert {path.name: path.read_text() for path in (folder / UPLOADED).iterdir()} == {
        name: name for name in ADAPTER_FILES
    }
    spec = ImportSpec.load(folder)
    assert (spec.creator, spec.licence) == (CREATOR, "MIT")
    assert not shop.transfers.find(CREATOR)
    assert shop.imports.get(job.id).step is Step.PUBLISH
    shop.run(job.id, Step.TRAIN, Step.PUBLISH)
    done = shop.imports.get(job.id)
    assert (done.state, done.result, done.cid) == (JobState.SUCCEEDED, RESULT, CID)
    assert shop.desk.offers() == [("training.validate", job.id), ("training.publish", job.id)]
    kinds = [event.kind for event in shop.imports.events(job.id, CREATOR)]
    assert kinds.index("screening") < kinds.index("published")


def test_a_refused_adapter_fails_with_its_reason_and_keeps_what_was_brought(shop: Workshop) -> None:
    """A creator who corrects the configuration need not upload the weights again."""
    shop.program = "say('failed', code='adapter_refused', message='pickle', reason='adapter_pickle')"
    job = shop.brought()
    shop.run(job.id, Step.VALIDATE, Step.PUBLISH)
    failed = shop.imports.get(job.id)
    assert failed.error == {"code": "adapter_refused", "message": "pickle", "reason": "adapter_pickle"}
    assert (failed.state, failed.cid, shop.store.folders) == (JobState.FAILED, None, [])
    assert len(shop.transfers.find(CREATOR)) == 2


def test_files_that_went_before_they_were_read_end_the_job_by_name(shop: Workshop) -> None:
    job = shop.brought()
    assert job.imported is not None
    shop.transfers.remove(CREATOR, job.imported.transfers[WEIGHTS_FILE])
    shop.run(job.id, Step.VALIDATE)
    error = shop.imports.get(job.id).error
    assert error is not None
    assert (error["code"], WEIGHTS_FILE in error["message"]) == ("files_missing", True)


@pytest.mark.parametrize("moment", [Step.VALIDATE, Step.PUBLISH])
def test_an_adapter_from_elsewhere_outlives_a_worker_that_vanished(shop: Workshop, moment: Step) -> None:
    job = shop.brought()
    for step in (Step.VALIDATE, Step.PUBLISH):
        if step is moment:
            assert shop.leases.acquire(job.id, step) is not None
            shop.run(job.id, step)
            assert shop.imports.get(job.id).step is step
            shop.desk.wait(31)
        shop.run(job.id, step, step)
    assert shop.imports.get(job.id).state is JobState.SUCCEEDED
    assert len(shop.store.folders) == 1


def test_a_foreign_adapter_whose_folder_is_lost_has_to_be_brought_again(shop: Workshop) -> None:
    job = shop.brought()
    shop.run(job.id, Step.VALIDATE)
    shutil.rmtree(shop.folder / job.id)
    for _ in range(MAX_ATTEMPTS):
        shop.desk.wait(60)
        shop.run(job.id, Step.PUBLISH)
    assert shop.imports.get(job.id).step is Step.VALIDATE
    shop.run(job.id, Step.VALIDATE)
    error = shop.imports.get(job.id).error
    assert error is not None
    assert error["code"] == "files_missing"
