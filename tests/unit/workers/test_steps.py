from __future__ import annotations

import json
import os
from dataclasses import replace

from prometheus_client import REGISTRY

from backend.domain.ids import ChannelId, Hash32, VersionId
from backend.domain.training import JobState, Payment, Step
from backend.services.train.parents import Parent
from tests.unit.workers.steps_harness import CID, StepsHarness, state
from tests.unit.workers.support import CREATOR, RESULT, letter_rows
from workers.steps import _count_charge
from workers.training.spec import ADAPTER, ROWS_FILE, TrainingSpec


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


def num_steps(step: str, outcome: str) -> float:
    labels = {"step": step, "outcome": outcome}
    return REGISTRY.get_sample_value("loraledger_task_seconds_count", labels) or 0.0


def test_a_diverged_training_fails_the_job_with_its_step(harness: StepsHarness) -> None:
    harness.program = "say('failed', code='non_finite_loss', message='the loss is nan at step 7', step=7)"
    job = harness.jobs.job()
    ended, failed = num_steps("validate", "ended"), num_steps("train", "job_failed")
    harness.run(job.id, Step.VALIDATE, Step.TRAIN)
    assert harness.jobs.training.get(job.id).error == {
        "code": "non_finite_loss",
        "message": "the loss is nan at step 7",
        "step": 7,
    }
    assert num_steps("validate", "ended") == ended + 1
    assert num_steps("train", "job_failed") == failed + 1


def test_metrics_count_the_tokens_that_a_receipt_charges(harness: StepsHarness) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("loraledger_charged_tokens_total", {"kind": "trained"}) or 0.0

    result = replace(RESULT, metrics={"num_trained_tokens": 8, "num_charged_tokens": 60})
    channel = Hash32("0x" + "cc" * 32)
    payment = Payment(ChannelId(channel), VersionId(channel), price=5, max_tokens=100)
    before = counted()
    _count_charge(replace(harness.jobs.job(), result=result, payment=payment))
    assert counted() == before + 60
