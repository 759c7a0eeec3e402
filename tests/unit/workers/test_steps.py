from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

from backend.domain.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from backend.domain.errors import Unavailable
from backend.domain.ids import ChannelId, Cid, Hash32, VersionId
from backend.domain.screening import ScreeningReport
from backend.domain.training import JobState, Payment, Step
from backend.services.contribute.transfers import Transfers
from backend.services.train.imported import ImportedAdapters
from backend.services.train.leases import MAX_ATTEMPTS, Leases
from backend.services.train.parents import Parent, reject_parent
from tests.unit.workers.support import (
    BASE,
    CREATOR,
    RESULT,
    InMemoryRows,
    JobHarness,
    letter_rows,
    transferred,
)
from workers.steps import Steps, TrainerOptions, _count_charge
from workers.training.spec import ADAPTER, ROWS_FILE, UPLOADED, ImportSpec, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.db.unit_of_work import Database
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


class FakePublication:
    """Replaces `Publication`; records the published folders."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.error: Exception | None = None

    def publish(self, folder: Path) -> Cid:
        if self.error is not None:
            raise self.error
        self.folders.append(folder)
        return CID


class FakeScreening:
    """Replaces `JobScreening`; every report is equal."""

    def report(self, job: TrainingJob, job_folder: Path) -> ScreeningReport:
        return ScreeningReport(None, None, 0, 0)


class StepsHarness:
    """Workers on the jobs of a `JobHarness`; their training processes run `program`."""

    def __init__(self, jobs: JobHarness, folder: Path) -> None:
        self.jobs = jobs
        self.folder = folder
        self.rows = InMemoryRows(letter_rows())
        self.store = FakePublication()
        self.parents: dict[VersionId, Parent] = {}
        self.transfers = Transfers(folder.parent / "transfers", 1 << 20)
        self.imports = ImportedAdapters(jobs.database, self.transfers, lambda: jobs.now)
        self.program = DONE
        self.leases = jobs.leases
        self.leases.heartbeat_seconds = 0.02

    def worker(self) -> Steps:
        def command(folder: Path) -> list[str]:
            return [sys.executable, "-c", SAY + self.program, str(folder)]

        bring = self.parents.__getitem__ if self.parents else reject_parent
        cache = self.folder / "cache"
        folders = {BASE.digest: ""}
        options = TrainerOptions(self.folder, cache, 1, folders, command, bring, transfers=self.transfers)
        return Steps(self.leases, self.rows, FakeScreening(), self.store, options)  # type: ignore[arg-type]

    def create_import(self) -> TrainingJob:
        """Import an adapter that was trained elsewhere."""
        sent = {name: transferred(self.transfers, CREATOR, name.encode()) for name in ADAPTER_FILES}
        return self.imports.create(CREATOR, "MIT", sent)

    def run(self, job_id: str, *steps: Step) -> None:
        for step in steps:
            self.worker().run(step, job_id)


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> StepsHarness:
    return StepsHarness(JobHarness(sqlite_database), tmp_path / "training")


def state(harness: StepsHarness, job_id: str) -> JobState:
    return harness.jobs.training.get(job_id).state


def test_three_steps_make_a_job_succeed(harness: StepsHarness) -> None:
    job = harness.jobs.job(rank=4)
    harness.run(job.id, *Step)
    done = harness.jobs.training.get(job.id)
    assert (done.state, done.result, done.cid) == (JobState.SUCCEEDED, RESULT, CID)
    assert harness.store.folders == [harness.folder.resolve() / job.id / ADAPTER]
    spec = TrainingSpec.load(harness.folder / job.id)
    assert (spec.config, spec.snapshots, spec.licences) == (job.config, (job.snapshot_id,), ("MIT",))
    lines = [json.loads(line) for line in (harness.folder / job.id / ROWS_FILE).read_text().splitlines()]
    assert [(line["contribution"], line["row"]) for line in lines] == letter_rows()
    assert {"step": 1, "loss": 2.0} in [event.data for event in harness.jobs.events(job)]
    kinds = [event.kind for event in harness.jobs.events(job)]
    assert kinds.index("screening") < kinds.index("published")


def test_the_parent_of_a_warm_start_is_fetched_and_passed_to_the_trainer(harness: StepsHarness) -> None:
    snapshot = harness.jobs.snapshot(True, True)
    parent = harness.jobs.version(harness.jobs.snapshot(True))
    job = harness.jobs.training.create(CREATOR, snapshot, {"parent": parent})
    harness.run(job.id, Step.VALIDATE)
    assert state(harness, job.id) is JobState.FAILED  # this worker fetches none
    error = harness.jobs.training.get(job.id).error
    assert error is not None
    assert (error["code"], parent in error["message"]) == ("invalid_parent", True)

    with harness.jobs.database.read() as tx:
        record = tx.chain.version(parent)
    assert record is not None
    folder = harness.folder / "adapters" / "parent"
    folder.mkdir(parents=True)
    os.utime(folder, (0, 0))
    harness.parents[parent] = Parent(record, folder)
    job = harness.jobs.training.create(CREATOR, snapshot, {"parent": parent})
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    spec = TrainingSpec.load(harness.folder / job.id)
    assert spec.snapshots == (snapshot, record.snapshots[0])
    assert (spec.parent_folder, spec.parent_base) == (str(folder.resolve()), record.base_model)
    assert folder.stat().st_mtime > 0  # it stays in the cache while it is used


def test_a_task_delivered_again_changes_nothing(harness: StepsHarness) -> None:
    job = harness.jobs.job()
    for step in Step:
        harness.run(job.id, *Step)
        harness.run(job.id, step, step)
    assert len(harness.store.folders) == 1
    assert [event.data.get("attempt") for event in harness.jobs.events(job) if "step" in event.data].count(
        1
    ) == 3


def test_a_snapshot_whose_rows_are_gone_fails_the_job(harness: StepsHarness) -> None:
    harness.rows.content = []
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE)
    failed = harness.jobs.training.get(job.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "empty_snapshot"


def test_rows_that_changed_since_validation_fail_the_job(harness: StepsHarness) -> None:
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE)
    harness.rows.content.pop()
    harness.run(job.id, Step.TRAIN)
    failed = harness.jobs.training.get(job.id)
    assert failed.error is not None
    assert failed.error["code"] == "dataset_changed"


def test_a_diverged_training_fails_the_job_with_its_step(harness: StepsHarness) -> None:
    harness.program = "say('failed', code='non_finite_loss', message='the loss is nan at step 7', step=7)"
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    assert harness.jobs.training.get(job.id).error == {
        "code": "non_finite_loss",
        "message": "the loss is nan at step 7",
        "step": 7,
    }


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


def test_a_block_store_that_is_away_is_tried_again(harness: StepsHarness) -> None:
    job = harness.jobs.job()
    harness.store.error = Unavailable("no route to the store")
    harness.run(job.id, *Step)
    assert state(harness, job.id) is JobState.RUNNING
    harness.store.error = None
    harness.jobs.wait(5)
    harness.run(job.id, Step.PUBLISH)
    assert state(harness, job.id) is JobState.SUCCEEDED


def test_an_adapter_that_lies_elsewhere_is_waited_for_and_then_trained_again(harness: StepsHarness) -> None:
    job = harness.jobs.job()
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    shutil.rmtree(harness.folder / job.id)  # another worker, without the folder of the one that trained
    for _ in range(MAX_ATTEMPTS):
        assert harness.jobs.training.get(job.id).step is Step.PUBLISH
        harness.jobs.wait(60)
        harness.run(job.id, Step.PUBLISH)
    again = harness.jobs.training.get(job.id)
    assert (again.state, again.step, again.result) == (JobState.QUEUED, Step.TRAIN, None)
    assert harness.jobs.offers()[-1] == ("training.train", job.id)
    harness.run(job.id, Step.TRAIN, Step.PUBLISH)
    assert state(harness, job.id) is JobState.SUCCEEDED


@pytest.mark.parametrize("moment", list(Step))
def test_a_worker_that_vanished_in_any_step_is_succeeded_when_its_lease_is_past(
    harness: StepsHarness, moment: Step
) -> None:
    job = harness.jobs.job()
    for step in Step:
        if step is moment:
            assert harness.leases.acquire(job.id, step) is not None  # and then nothing more is heard of it
            harness.run(job.id, step)
            assert harness.jobs.training.get(job.id).step is step
            harness.jobs.wait(31)
        harness.run(job.id, step)
    assert state(harness, job.id) is JobState.SUCCEEDED


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


def test_an_imported_adapter_is_validated_and_published_without_training(
    harness: StepsHarness,
) -> None:
    job = harness.create_import()
    harness.run(job.id, Step.VALIDATE)
    folder = harness.folder / job.id
    assert {path.name: path.read_text() for path in (folder / UPLOADED).iterdir()} == {
        name: name for name in ADAPTER_FILES
    }
    spec = ImportSpec.load(folder)
    assert (spec.creator, spec.licence) == (CREATOR, "MIT")
    assert not harness.transfers.find(CREATOR)
    assert harness.imports.get(job.id).step is Step.PUBLISH
    harness.run(job.id, Step.TRAIN, Step.PUBLISH)
    done = harness.imports.get(job.id)
    assert (done.state, done.result, done.cid) == (JobState.SUCCEEDED, RESULT, CID)
    assert harness.jobs.offers() == [("import.validate", job.id), ("import.publish", job.id)]
    kinds = [event.kind for event in harness.imports.events(job.id, CREATOR)]
    assert kinds.index("screening") < kinds.index("published")


def test_a_refused_adapter_fails_with_its_reason_and_its_upload_is_retained(harness: StepsHarness) -> None:
    """A creator who corrects the configuration need not upload the weights again."""
    harness.program = "say('failed', code='adapter_refused', message='pickle', reason='adapter_pickle')"
    job = harness.create_import()
    harness.run(job.id, Step.VALIDATE, Step.PUBLISH)
    failed = harness.imports.get(job.id)
    assert failed.error == {"code": "adapter_refused", "message": "pickle", "reason": "adapter_pickle"}
    assert (failed.state, failed.cid, harness.store.folders) == (JobState.FAILED, None, [])
    assert len(harness.transfers.find(CREATOR)) == 2


def test_files_that_went_before_they_were_read_end_the_job_by_name(harness: StepsHarness) -> None:
    job = harness.create_import()
    assert job.imported is not None
    harness.transfers.remove(CREATOR, job.imported.transfers[WEIGHTS_FILE])
    harness.run(job.id, Step.VALIDATE)
    error = harness.imports.get(job.id).error
    assert error is not None
    assert (error["code"], WEIGHTS_FILE in error["message"]) == ("files_missing", True)


@pytest.mark.parametrize("moment", [Step.VALIDATE, Step.PUBLISH])
def test_an_import_survives_the_loss_of_a_worker(harness: StepsHarness, moment: Step) -> None:
    job = harness.create_import()
    for step in (Step.VALIDATE, Step.PUBLISH):
        if step is moment:
            assert harness.leases.acquire(job.id, step) is not None
            harness.run(job.id, step)
            assert harness.imports.get(job.id).step is step
            harness.jobs.wait(31)
        harness.run(job.id, step, step)
    assert harness.imports.get(job.id).state is JobState.SUCCEEDED
    assert len(harness.store.folders) == 1


def test_an_imported_adapter_whose_folder_is_lost_must_be_uploaded_again(harness: StepsHarness) -> None:
    job = harness.create_import()
    harness.run(job.id, Step.VALIDATE)
    shutil.rmtree(harness.folder / job.id)
    for _ in range(MAX_ATTEMPTS):
        harness.jobs.wait(60)
        harness.run(job.id, Step.PUBLISH)
    assert harness.imports.get(job.id).step is Step.VALIDATE
    harness.run(job.id, Step.VALIDATE)
    error = harness.imports.get(job.id).error
    assert error is not None
    assert error["code"] == "files_missing"


def test_metrics_count_the_tokens_that_a_receipt_charges(harness: StepsHarness) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("loraledger_charged_tokens_total", {"kind": "trained"}) or 0.0

    result = replace(RESULT, metrics={"num_trained_tokens": 8, "num_charged_tokens": 60})
    channel = Hash32("0x" + "cc" * 32)
    payment = Payment(ChannelId(channel), VersionId(channel), price=5, max_tokens=100)
    before = counted()
    _count_charge(replace(harness.jobs.job(), result=result, payment=payment))
    assert counted() == before + 60
