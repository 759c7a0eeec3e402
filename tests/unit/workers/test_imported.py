from __future__ import annotations

import shutil

import pytest

from backend.domain.adapter_files import WEIGHTS_FILE
from backend.domain.training import JobState, Step
from backend.services.train.leases import MAX_ATTEMPTS
from tests.unit.workers.steps_harness import ADAPTER_FILES, CID, StepsHarness
from tests.unit.workers.support import CREATOR, RESULT
from workers.training.folders import home_id
from workers.training.spec import UPLOADED, ImportSpec


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
            assert harness.leases.acquire(job.id, step, home_id(harness.folder)) is not None
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
