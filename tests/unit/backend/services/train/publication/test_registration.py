"""Registrations of published adapters: what they name, who may send them, and what the chain confirms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backend.domain.content import cid_digest
from backend.domain.denials import Denial, Denied, ModelWithheld, Reason, Subject
from backend.domain.errors import Forbidden, InvalidInput, NotFound
from backend.domain.hashing import version_id
from backend.domain.ids import Hash32
from backend.domain.screening import CopiedVersion, Inspection
from backend.domain.training import TrainingResult
from backend.services.train.publication import Listing, NoBetterThanBase, NotPublished
from tests.unit.backend.services.train.publication.support import LISTING, SKETCH, WORSE, PublicationHarness
from tests.unit.workers.support import CREATOR, OTHER_CREATOR, RESULT


def test_a_warm_start_names_the_snapshots_of_its_parent(harness: PublicationHarness) -> None:
    seen = harness.jobs.snapshot(True)
    job = harness.publish()
    parent = harness.jobs.version(seen, job.snapshot_id)
    warm = replace(job, config=replace(job.config, parent=parent))
    assert harness.publication.record(job, LISTING).snapshots == (job.snapshot_id,)
    assert harness.publication.record(warm, LISTING).snapshots == (job.snapshot_id, seen)


def test_a_registration_names_what_was_trained_and_published(harness: PublicationHarness) -> None:
    job = harness.publish()
    registration = harness.publication.prepare(job.id, CREATOR, LISTING)
    record = registration.record
    assert job.cid is not None
    assert (record.adapter_digest, record.base_model) == (RESULT.adapter_digest, RESULT.base_model)
    assert (record.cid_digest, record.snapshots) == (cid_digest(job.cid), (job.snapshot_id,))
    assert (record.creator, record.name, record.completion_price) == (CREATOR, "python-docs", 4_000_000)
    assert registration.version_id == version_id(record)
    ((contract, function, struct, sender),) = harness.chain.prepared
    assert (contract, function, sender) == ("AdapterRegistry", "register", CREATOR)
    assert bytes.fromhex(struct["name"][2:]) == b"python-docs".ljust(32, b"\0")
    assert struct["promptPrice"] == "2000000"


def test_nothing_is_registered_before_it_is_published(harness: PublicationHarness) -> None:
    job = harness.train()
    with pytest.raises(NotPublished):
        harness.publication.prepare(job.id, CREATOR, LISTING)
    assert not harness.chain.prepared


def test_only_the_creator_registers(harness: PublicationHarness) -> None:
    job = harness.publish()
    with pytest.raises(Forbidden):
        harness.publication.prepare(job.id, OTHER_CREATOR, LISTING)
    with pytest.raises(NotFound):
        harness.publication.prepare("ftjob-none", CREATOR, LISTING)


def test_an_adapter_no_better_than_its_base_needs_the_creators_word(harness: PublicationHarness) -> None:
    job = harness.publish(WORSE)
    with pytest.raises(NoBetterThanBase) as refusal:
        harness.publication.prepare(job.id, CREATOR, LISTING)
    assert refusal.value.details == WORSE.metrics
    assert harness.publication.prepare(job.id, CREATOR, LISTING, accepts_worse=True).record


def test_a_near_copy_of_anothers_adapter_is_reported_and_needs_confirmation(
    harness: PublicationHarness,
) -> None:
    job = harness.publish()
    harness.screening.add(Inspection(RESULT.adapter_digest, RESULT.base_model, SKETCH, {}))
    original = harness.list_elsewhere(OTHER_CREATOR)
    with pytest.raises(CopiedVersion, match=original) as refusal:
        harness.publication.prepare(job.id, CREATOR, LISTING)
    assert refusal.value.details["creator"] == OTHER_CREATOR
    assert not harness.chain.prepared
    registration = harness.publication.prepare(job.id, CREATOR, LISTING, accepts_copy=True)
    assert registration.screening is not None
    assert registration.screening.nearest is not None
    assert registration.screening.nearest.version == original


def test_an_imported_adapter_names_no_snapshot_and_passes_the_same_screening(
    harness: PublicationHarness,
) -> None:
    job = harness.publish_import()
    harness.screening.add(Inspection(RESULT.adapter_digest, RESULT.base_model, SKETCH, {}))
    registration = harness.publication.prepare(job.id, CREATOR, LISTING)
    assert registration.record.snapshots == ()
    assert registration.record.adapter_digest == RESULT.adapter_digest
    original = harness.list_elsewhere(OTHER_CREATOR)
    with pytest.raises(CopiedVersion, match=original):
        harness.publication.prepare(job.id, CREATOR, LISTING)
    assert harness.publication.prepare(job.id, CREATOR, LISTING, accepts_copy=True).record


def test_the_registration_of_an_adapter_from_elsewhere_is_noticed(harness: PublicationHarness) -> None:
    job = harness.publish_import()
    version = harness.confirm(job)
    assert harness.publication.record_registrations() == 1
    assert harness.imports.get(job.id).version_id == version


def test_ones_own_adapter_is_listed_again_without_a_word(harness: PublicationHarness) -> None:
    job = harness.publish()
    harness.screening.add(Inspection(RESULT.adapter_digest, RESULT.base_model, SKETCH, {}))
    harness.list_elsewhere(CREATOR)
    registration = harness.publication.prepare(job.id, CREATOR, LISTING)
    assert registration.screening is not None
    assert registration.screening.nearest is None


def test_a_job_older_than_screening_is_registered_without_a_report(
    harness: PublicationHarness,
) -> None:
    job = harness.publish()
    assert harness.publication.prepare(job.id, CREATOR, LISTING).screening is None


def test_the_chains_confirmation_is_noticed_once(harness: PublicationHarness) -> None:
    job = harness.publish()
    assert harness.publication.record_registrations() == 0
    version = harness.confirm(job)
    assert harness.publication.record_registrations() == 1
    assert harness.publication.record_registrations() == 0
    assert harness.jobs.training.get(job.id).version_id == version
    assert harness.jobs.events(job)[-1].data == {"version_id": version}


def test_a_new_price_is_another_version_and_the_job_keeps_its_first(harness: PublicationHarness) -> None:
    job = harness.publish()
    version = harness.confirm(job)
    harness.confirm(job, Listing("python-docs", 1, 1, 200_000, 300_000), block=12)
    harness.publication.record_registrations()
    assert harness.jobs.training.get(job.id).version_id == version


def test_jobs_whose_creator_registered_no_such_weights_are_not_read(harness: PublicationHarness) -> None:
    harness.publish()
    other = harness.publish(TrainingResult(Hash32("0x" + "99" * 32), RESULT.base_model, RESULT.metrics))
    version = harness.confirm(other)
    with harness.jobs.database.read() as tx:
        found = tx.training.registrations()
    assert other.cid is not None
    assert found == [(other.id, other.cid, version, cid_digest(other.cid))]


def test_another_creators_version_with_other_weights_is_not_ours(harness: PublicationHarness) -> None:
    job = harness.publish()
    other = harness.publish(TrainingResult(Hash32("0x" + "99" * 32), RESULT.base_model, RESULT.metrics))
    harness.confirm(other)
    harness.publication.record_registrations()
    assert harness.jobs.training.get(job.id).version_id is None
    assert harness.jobs.training.get(other.id).version_id is not None


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("name", "Python"),
        ("name", ""),
        ("name", "x" * 33),
        ("prompt_price", -1),
        ("completion_price", 1 << 64),
        ("operator_ppm", 1_000_001),
        ("creator_ppm", 900_000),
    ],
)
def test_a_listing_out_of_range_is_refused_by_name(param: str, value: Any) -> None:
    terms = {"name": "a", "prompt_price": 1, "completion_price": 1, "operator_ppm": 200_000, "creator_ppm": 1}
    with pytest.raises(InvalidInput) as refusal:
        Listing(**{**terms, param: value})
    assert refusal.value.param == param


def test_a_denied_adapter_is_not_registered(harness: PublicationHarness) -> None:
    job = harness.publish()
    denied = Denial(Subject(Denied.ADAPTER, RESULT.adapter_digest), Reason.LEGAL, harness.jobs.now)
    with harness.jobs.database.begin() as tx:
        tx.denials.put(denied)
    with pytest.raises(ModelWithheld, match="legal"):
        harness.publication.prepare(job.id, CREATOR, LISTING)


def test_an_adapter_whose_folder_was_deleted_is_not_registered(harness: PublicationHarness) -> None:
    """A takedown that is reversed brings no folder back."""
    job = harness.publish()
    assert job.cid is not None
    harness.store.forget(job.cid)
    with pytest.raises(NotPublished, match="not stored any more"):
        harness.publication.prepare(job.id, CREATOR, LISTING)
