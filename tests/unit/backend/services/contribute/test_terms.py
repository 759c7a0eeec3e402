from __future__ import annotations

from math import inf
from queue import Queue
from threading import Event
from typing import TYPE_CHECKING

import pytest

from backend.db.tables.chain import DatanetRow
from backend.domain.content import ContentMissing, cid_digest, cid_of
from backend.domain.contribution import UploadState
from backend.domain.ids import Cid, DatanetId
from backend.domain.registries import Datanet
from backend.services.background import Background
from backend.services.contribute.licences import LicenceConflict, UnknownLicence
from backend.services.contribute.terms import (
    MAX_FOLDER_BYTES,
    MAX_TERMS_BYTES,
    TERMS_FILE,
    DatanetTerms,
    UnreadableTerms,
    terms_file,
)
from tests.support.contributions import NET, OPERATOR, ContributionHarness
from tests.support.market import some_hash

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.storage.embedded import EmbeddedStore


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


def describe(harness: ContributionHarness, store: EmbeddedStore | None = None, **files: bytes) -> Cid:
    """The datanet's folder holds these. `store`: that of the operator that has it, if it is another one."""
    cid = (store or harness.store).add_folder(
        {name.replace("_json", ".json"): content for name, content in files.items()}
    )
    with harness.database.begin() as tx:
        tx.session.get_one(DatanetRow, NET).cid_digest = cid_digest(cid)
    return cid


def test_the_report_contains_the_datanets_terms(harness: ContributionHarness) -> None:
    describe(harness, README=b"# Letters", datanet_json=terms_file("mit or cc-by-4.0"))
    upload = harness.upload(licence="CC-BY-4.0")
    assert upload.state is UploadState.DRAFT
    assert harness.contributions.status(upload.id).report.datanet_licence == "MIT OR CC-BY-4.0"


def test_another_licence_is_refused_before_anything_is_read(harness: ContributionHarness) -> None:
    describe(harness, datanet_json=terms_file("MIT"))
    with pytest.raises(LicenceConflict):
        harness.upload(iter(()), licence="GPL-3.0-only")
    assert harness.contributions.find() == []


def test_a_datanet_that_names_no_licences_takes_any(harness: ContributionHarness) -> None:
    describe(harness, README=b"# Letters")
    assert harness.upload(licence="GPL-3.0-only").report.datanet_licence is None


def test_terms_that_are_not_stored_here_are_fetched_from_another_operator(
    harness: ContributionHarness,
) -> None:
    folder = describe(harness, harness.elsewhere, datanet_json=terms_file("MIT"))
    with pytest.raises(LicenceConflict):
        harness.upload(licence="GPL-3.0-only")
    assert harness.store.copies(inf) == [folder], "it can be fetched again"
    report = harness.upload().report
    assert (report.datanet_licence, report.are_terms_unknown) == ("MIT", False)


def test_unreadable_terms_of_another_operator_admit_no_contribution(harness: ContributionHarness) -> None:
    describe(harness, harness.elsewhere, datanet_json=b"{}")
    with pytest.raises(UnreadableTerms):
        harness.upload()


def test_a_contribution_whose_terms_no_operator_has_is_left_to_people(
    harness: ContributionHarness,
) -> None:
    folder = describe(harness, harness.elsewhere, datanet_json=terms_file("MIT"))
    harness.elsewhere.forget(folder)
    upload = harness.upload(licence="GPL-3.0-only")
    assert (upload.state, upload.report.are_terms_unknown) == (UploadState.DRAFT, True)
    harness.contributions.submit(upload.id, harness.sign(upload))
    harness.record(upload)
    harness.curation.advance()
    assert harness.contributions.status(upload.id).state is UploadState.RECORDED
    assert [function for function, _ in harness.queued()] == ["contributeWithSig"]
    harness.record(upload, is_accepted=True)
    harness.curation.advance()
    assert harness.contributions.status(upload.id).state is UploadState.ACCEPTED


def test_a_fetch_that_takes_long_goes_on_for_the_next_upload(harness: ContributionHarness) -> None:
    folder = describe(harness, harness.elsewhere, datanet_json=terms_file("MIT"))
    goes_on, has_ended = Event(), Event()

    def fetch(cid: Cid, max_bytes: int, _first: Account | None = None) -> None:
        assert goes_on.wait(60)
        assert max_bytes == MAX_FOLDER_BYTES
        harness.store.add_copy(cid, harness.elsewhere.car(cid))
        has_ended.set()

    terms = DatanetTerms(harness.store, fetch, Background(wait_seconds=0))
    datanet = Datanet(NET, OPERATOR.account, "docs", cid_digest(folder), 0)
    with pytest.raises(ContentMissing, match="still being fetched"):
        terms.accepted_licence(datanet)
    goes_on.set()
    assert has_ended.wait(60)
    assert terms.accepted_licence(datanet) == "MIT"


def test_terms_are_unknown_while_too_many_others_are_fetched(harness: ContributionHarness) -> None:
    goes_on, folders = Event(), Queue[Cid]()

    def fetch(cid: Cid, _max_bytes: int, _first: Account | None = None) -> None:
        folders.put(cid)
        assert goes_on.wait(60)

    background = Background(wait_seconds=0, max_threads=1, max_queued=1)
    terms = DatanetTerms(harness.store, fetch, background)
    for number in range(3):
        datanet = Datanet(DatanetId(number), OPERATOR.account, "docs", some_hash(f"folder {number}"), 0)
        with pytest.raises(ContentMissing, match="too much" if number == 2 else "still being fetched"):
            terms.accepted_licence(datanet)
        if number == 0:
            folders.get(timeout=60)
    goes_on.set()
    assert folders.get(timeout=60) == cid_of(some_hash("folder 1"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"licence": 1}',
        b'{"licence": "my own"}',
        b"[" * MAX_TERMS_BYTES,
        b" " * (MAX_TERMS_BYTES + 1),
    ],
)
def test_unreadable_terms_admit_no_contribution(harness: ContributionHarness, content: bytes) -> None:
    describe(harness, datanet_json=content)
    with pytest.raises(UnreadableTerms):
        harness.upload()


def test_terms_state_a_licence_that_spdx_knows() -> None:
    assert TERMS_FILE == "datanet.json"
    with pytest.raises(UnknownLicence):
        terms_file("free for all")
