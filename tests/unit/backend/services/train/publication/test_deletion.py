"""When the folders of adapters are deleted, and when they stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from backend.domain.content import cid_digest
from backend.domain.denials import Denial, Denied, Reason, Subject
from backend.services.train.publication import REGISTRABLE_FOR, UNREGISTERED_FOR, NotPublished
from tests.unit.backend.services.train.publication.support import LISTING, SECOND, PublicationHarness
from tests.unit.workers.support import CREATOR

if TYPE_CHECKING:
    from backend.domain.training import TrainingJob


def test_an_import_that_is_not_registered_within_a_week_is_deleted(harness: PublicationHarness) -> None:
    job = harness.publish_import()
    assert harness.forget(UNREGISTERED_FOR) == 0
    assert harness.forget(SECOND) == 1
    assert job.cid is not None
    assert not harness.store.has(job.cid)
    assert harness.publication.forget_unneeded() == 0
    with pytest.raises(NotPublished, match="import the adapter again"):
        harness.publication.prepare(job.id, CREATOR, LISTING)


def test_no_registration_is_prepared_that_may_come_after_the_deletion(harness: PublicationHarness) -> None:
    job, registered, trained = harness.publish_import(), harness.publish_import(), harness.publish()
    with harness.jobs.database.begin() as tx:
        tx.training.save(replace(registered, version_id=harness.jobs.version()))
    harness.jobs.wait(REGISTRABLE_FOR.total_seconds())
    harness.publication.prepare(job.id, CREATOR, LISTING)
    harness.jobs.wait(1)
    with pytest.raises(NotPublished, match="import the adapter again"):
        harness.publication.prepare(job.id, CREATOR, LISTING)
    for other in (registered, trained):
        harness.publication.prepare(other.id, CREATOR, LISTING)


def test_an_import_stays_while_its_registration_may_not_be_indexed(harness: PublicationHarness) -> None:
    job = harness.publish_import()
    harness.jobs.wait(2 * UNREGISTERED_FOR.total_seconds())
    assert harness.publication.forget_unneeded() == 0  # nothing is indexed
    assert harness.forget(SECOND, lag=UNREGISTERED_FOR + SECOND) == 0
    assert job.cid is not None
    assert harness.store.has(job.cid)
    assert harness.forget(SECOND) == 1


def test_the_folder_of_an_import_stays_while_a_version_or_a_later_import_has_it(
    harness: PublicationHarness,
) -> None:
    job = harness.publish_import()
    harness.jobs.wait((UNREGISTERED_FOR + SECOND).total_seconds())
    again = harness.publish_import()
    assert harness.forget(timedelta()) == 0
    harness.confirm(again)  # recorded for neither of them yet
    assert harness.forget(UNREGISTERED_FOR + SECOND) == 0
    assert job.cid is not None
    assert harness.store.has(job.cid)


def test_the_folder_of_a_job_that_lost_its_result_is_deleted_too(harness: PublicationHarness) -> None:
    job = harness.begin_publication()
    assert job.cid is not None
    with harness.jobs.database.begin() as tx:
        tx.training.save(replace(job, result=None))
    harness.end(job, "cancel")
    harness.publication.discard(job.id)
    assert not harness.store.has(job.cid)


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_the_folder_of_a_job_without_success_is_deleted(harness: PublicationHarness, end: str) -> None:
    job = harness.begin_publication()
    assert job.cid is not None
    harness.publication.discard(job.id)
    assert harness.store.has(job.cid)
    assert job.published_cid is None
    harness.end(job, end)
    harness.publication.discard(job.id)
    assert not harness.store.has(job.cid)
    assert harness.jobs.training.get(job.id).cid is None


def test_what_a_killed_worker_left_of_a_job_without_success_is_deleted_after_a_week(
    harness: PublicationHarness,
) -> None:
    job = harness.begin_publication()
    assert job.cid is not None
    harness.end(job, "cancel")
    assert harness.forget(UNREGISTERED_FOR) == 0
    other = harness.begin_publication()
    assert harness.forget(SECOND) == 0  # `other` may publish it
    harness.end(other, "cancel")
    assert harness.forget(SECOND) == 1
    assert not harness.store.has(job.cid)


def test_a_job_that_succeeded_keeps_its_folder(harness: PublicationHarness) -> None:
    job = harness.publish()
    harness.publication.discard(job.id)
    assert job.published_cid is not None
    assert harness.store.has(job.published_cid)
    assert harness.forget(UNREGISTERED_FOR + SECOND) == 0


def test_a_folder_stays_while_another_job_or_a_version_needs_it(harness: PublicationHarness) -> None:
    def without_success() -> TrainingJob:
        job = harness.begin_publication()
        harness.end(job, "cancel")
        return job

    first, other = without_success(), harness.begin_publication()
    cid = first.cid
    assert cid is not None
    harness.publication.discard(first.id)
    assert harness.store.has(cid)
    harness.end(other, "cancel")
    published = harness.publish()
    harness.publication.discard(other.id)
    assert harness.store.has(cid)
    last = without_success()
    harness.confirm(published)
    with harness.jobs.database.begin() as tx:
        tx.training.save(replace(published, cid=None))
    harness.publication.discard(last.id)
    assert harness.store.has(cid)
    denied = without_success()
    with harness.jobs.database.begin() as tx:  # as a takedown of the version does
        tx.denials.put(Denial(Subject(Denied.CONTENT, cid_digest(cid)), Reason.LEGAL, harness.jobs.now))
    harness.publication.discard(denied.id)
    assert not harness.store.has(cid)
