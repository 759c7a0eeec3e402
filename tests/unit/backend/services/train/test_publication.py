"""Publication of trained adapters: `backend.services.train.publication`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from backend.db.tables.chain import CheckpointRow, VersionRow
from backend.domain.adapter_files import MAX_BYTES
from backend.domain.content import ContentCorrupt, cid_digest
from backend.domain.denials import Denial, Denied, ModelWithheld, Reason, Subject
from backend.domain.errors import Forbidden, InvalidInput, NotFound
from backend.domain.hashing import version_id
from backend.domain.ids import Account, Hash32
from backend.domain.screening import CopiedVersion, Inspection
from backend.domain.training import Step, TrainingResult
from backend.domain.transactions import PreparedTransaction
from backend.services.contribute.transfers import Transfers
from backend.services.market.screening import Screening
from backend.services.train.imported import ImportedAdapters
from backend.services.train.publication import (
    READ_BACK,
    REGISTRABLE_FOR,
    UNREGISTERED_FOR,
    Listing,
    NoBetterThanBase,
    NotPublished,
    Publication,
)
from backend.storage.embedded import EmbeddedStore
from tests.support.databases import version_row
from tests.unit.workers.support import CREATOR, DATASET, OTHER_CREATOR, RESULT, JobHarness, transferred

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.training import TrainingJob

LISTING = Listing("python-docs", 2_000_000, 4_000_000, 200_000, 300_000)
SECOND = timedelta(seconds=1)
SKETCH = bytes(range(64)) * 4  # two layers
WORSE = TrainingResult(
    RESULT.adapter_digest, RESULT.base_model, {"eval_loss_base": 2.0, "eval_loss_adapter": 2.0}
)


class FakeChain:
    """Prepares any transaction."""

    def __init__(self) -> None:
        self.prepared: list[tuple[str, str, Any, Account]] = []

    def prepare(self, contract: str, function: str, *args: Any, sender: Account) -> PreparedTransaction:
        self.prepared.append((contract, function, args[0], sender))
        return PreparedTransaction(31337, Account("0x" + "aa" * 20), "0x", 0, {}, 1)


class PublicationHarness:
    """Publication with a real store and database."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.jobs = JobHarness(database)
        self.chain = FakeChain()
        self.store = EmbeddedStore(folder / "ipfs", is_durable=False)
        clock = lambda: self.jobs.now  # noqa: E731
        self.screening = Screening(database)
        self.publication = Publication(database, self.store, self.chain, self.screening, clock)  # type: ignore[arg-type]
        self.transfers = Transfers(folder / "transfers", 1000)
        self.imports = ImportedAdapters(database, self.transfers, clock)
        self._taken: dict[str, Any] = {}
        self.adapter = folder / "adapter"
        self.adapter.mkdir()
        for name in ("adapter_config.json", "README.md"):
            (self.adapter / name).write_text(name)
        (self.adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 2000)

    def train(self, result: TrainingResult = RESULT) -> TrainingJob:
        job, leases = self.jobs.job(), self.jobs.leases
        leases.complete_validation(self._take(job, Step.VALIDATE), DATASET)
        leases.complete_training(self._take(job, Step.TRAIN), result)
        return self.jobs.training.get(job.id)

    def begin_publication(self, result: TrainingResult = RESULT) -> TrainingJob:
        """Store the folder; the job has not ended yet."""
        job = self.train(result)
        held = self._taken[job.id] = self._take(job, Step.PUBLISH)
        self.jobs.leases.begin_publication(held, self.publication.cid_of(self.adapter))
        self.publication.publish(self.adapter)
        return self.jobs.training.get(job.id)

    def end(self, job: TrainingJob, how: str) -> None:
        """Cancel it, or have it fail."""
        if how == "cancel":
            self.jobs.training.cancel(job.id, CREATOR)
        else:
            self.jobs.leases.fail(self._taken[job.id], {"code": "refused", "message": "as a denial does"})

    def publish(self, result: TrainingResult = RESULT) -> TrainingJob:
        job = self.begin_publication(result)
        assert job.cid is not None
        self.jobs.leases.complete_publication(self._taken[job.id], job.cid)
        return self.jobs.training.get(job.id)

    def publish_import(self) -> TrainingJob:
        """Import and publish an adapter that was trained elsewhere."""
        files = {name: transferred(self.transfers, CREATOR, b"{}") for name in MAX_BYTES}
        job = self.imports.create(CREATOR, "MIT", files)
        unmeasured = TrainingResult(RESULT.adapter_digest, RESULT.base_model, {"general_loss_base": 1.0})
        self.jobs.leases.complete_import(self._take(job, Step.VALIDATE), unmeasured)
        held = self._take(job, Step.PUBLISH)
        self.jobs.leases.complete_publication(held, self.publication.publish(self.adapter))
        return self.imports.get(job.id)

    def confirm(self, job: TrainingJob, listing: Listing = LISTING, block: int = 9) -> str:
        """The chain confirms the registration."""
        record = self.publication.record(job, listing)
        version = version_id(record)
        with self.jobs.database.begin() as tx:
            tx.session.merge(version_row(version, record, block))
        return version

    def forget(self, after: timedelta, lag: timedelta = timedelta()) -> int:
        """Forget unregistered imports when so much time has passed and the index of the chain is so old."""
        self.jobs.wait(after.total_seconds())
        head = CheckpointRow(number=9, hash="0x" + "09" * 32, parent_hash="0x" + "08" * 32)
        head.timestamp = int((self.jobs.now - lag).timestamp())
        with self.jobs.database.begin() as tx:
            tx.session.merge(head)
        return self.publication.forget_unneeded()

    def list_elsewhere(self, creator: Account) -> str:
        """Register the same weights for another creator, in another folder."""
        raw = {
            "adapterDigest": RESULT.adapter_digest,
            "cidDigest": "0x" + "77" * 32,
            "baseModel": RESULT.base_model,
            "snapshots": [],
            "promptPrice": 1,
            "completionPrice": 1,
            "operatorPpm": 1,
            "creatorPpm": 1,
        }
        version = "0x" + "0e" * 32
        row = VersionRow(id=version, creator=creator, name="other", record=raw, is_deprecated=False)
        row.block_number, row.log_index = 3, 0
        with self.jobs.database.begin() as tx:
            tx.session.merge(row)
        return version

    def _take(self, job: TrainingJob, step: Step) -> Any:
        held = self.jobs.leases.acquire(job.id, step)
        assert held is not None
        return held


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> PublicationHarness:
    return PublicationHarness(sqlite_database, tmp_path)


def test_a_published_folder_comes_back_by_its_cid(harness: PublicationHarness, tmp_path: Path) -> None:
    cid = harness.publication.publish(harness.adapter)
    assert harness.store.has(cid)
    harness.store.fetch_folder(cid, tmp_path / "back")
    assert {p.name: p.read_bytes() for p in (tmp_path / "back").iterdir()} == {
        p.name: p.read_bytes() for p in harness.adapter.iterdir()
    }


def test_a_warm_start_names_the_snapshots_of_its_parent(harness: PublicationHarness) -> None:
    seen = harness.jobs.snapshot(True)
    job = harness.publish()
    parent = harness.jobs.version(seen, job.snapshot_id)
    warm = replace(job, config=replace(job.config, parent=parent))
    assert harness.publication.record(job, LISTING).snapshots == (job.snapshot_id,)
    assert harness.publication.record(warm, LISTING).snapshots == (job.snapshot_id, seen)


def test_publishing_again_after_a_kill_gives_the_same_cid(harness: PublicationHarness) -> None:
    cid = harness.publication.publish(harness.adapter)
    (harness.adapter.parent / READ_BACK).mkdir()  # as a killed worker leaves it
    assert harness.publication.publish(harness.adapter) == cid == harness.publication.cid_of(harness.adapter)
    assert not (harness.adapter.parent / READ_BACK).exists()


def test_a_store_that_returns_other_bytes_is_found_out(
    harness: PublicationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = harness.store.fetch_folder

    def tampered(cid: Any, destination: Path) -> None:
        real(cid, destination)
        (destination / "README.md").write_text("another")

    monkeypatch.setattr(harness.store, "fetch_folder", tampered)
    with pytest.raises(ContentCorrupt):
        harness.publication.publish(harness.adapter)


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
