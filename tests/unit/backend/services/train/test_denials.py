"""What is denied while a job is under way."""

from __future__ import annotations

import pytest

from backend.domain.denials import ContentWithheld, Denial, Denied, ModelWithheld, Reason, Subject
from backend.domain.training import JobState, Step
from tests.support.market import some_hash
from tests.support.paid_training_harness import CID, MOST, RESULT, PaidTrainingHarness
from tests.unit.workers.support import CREATOR, JobHarness
from tests.unit.workers.support import RESULT as PARENT_RESULT

DATANET, ROWS = Subject(Denied.DATANET, "7"), Subject(Denied.CONTENT, some_hash("folder 0"))
ADAPTER = Subject(Denied.ADAPTER, RESULT.adapter_digest)


@pytest.mark.parametrize("subject", [DATANET, ROWS, ADAPTER], ids=str)
def test_a_job_whose_data_or_adapter_is_denied_fails_uncharged_before_its_next_step(
    paid_harness: PaidTrainingHarness, subject: Subject
) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    if subject is not DATANET:
        paid_harness.train(job)
    paid_harness.installation.denials.deny(subject, Reason.LICENCE)
    assert paid_harness.leases.acquire(job.id, Step.VALIDATE if subject is DATANET else Step.PUBLISH) is None
    found = paid_harness.training.get(job.id)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error["reason"] == "licence"
    assert found.error[subject.kind.value] == subject.id
    assert (paid_harness.reserved, paid_harness.receipts) == (0, [])


def test_what_is_denied_while_the_adapter_is_published_is_not_charged(
    paid_harness: PaidTrainingHarness,
) -> None:
    paid_harness.installation.fund(MOST)
    job = paid_harness.create()
    paid_harness.train(job)
    held = paid_harness.lease(job, Step.PUBLISH)
    paid_harness.installation.denials.deny(DATANET, Reason.LICENCE)
    with pytest.raises(ContentWithheld):
        paid_harness.leases.complete_publication(held, CID)
    assert not paid_harness.receipts


def test_no_job_continues_from_a_denied_adapter(harness: JobHarness) -> None:
    snapshot = harness.snapshot(True, True)
    config = {"parent": harness.version(snapshot)}
    job = harness.training.create(CREATOR, snapshot, config)
    denied = Subject(Denied.ADAPTER, PARENT_RESULT.adapter_digest)
    with harness.database.begin() as tx:
        tx.denials.put(Denial(denied, Reason.LEGAL, harness.now))
    assert harness.leases.acquire(job.id, Step.VALIDATE) is None
    assert harness.training.get(job.id).state is JobState.FAILED
    with pytest.raises(ModelWithheld) as refused:
        harness.training.create(CREATOR, snapshot, config)
    assert refused.value.param == "parent"
