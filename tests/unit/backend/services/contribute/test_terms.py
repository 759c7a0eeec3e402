from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.db.tables.chain import DatanetRow
from backend.domain.content import cid_digest
from backend.domain.contribution import UploadState
from backend.services.contribute.licences import LicenceConflict, UnknownLicence
from backend.services.contribute.terms import MAX_TERMS_BYTES, TERMS_FILE, UnreadableTerms, terms_file
from tests.support.contributions import NET, ContributionHarness

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


def describe(harness: ContributionHarness, **files: bytes) -> None:
    """The datanet's folder holds these."""
    cid = harness.store.add_folder(
        {name.replace("_json", ".json"): content for name, content in files.items()}
    )
    with harness.database.begin() as tx:
        tx.session.get_one(DatanetRow, NET).cid_digest = cid_digest(cid)


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


def test_terms_that_are_not_here_are_not_known(harness: ContributionHarness) -> None:
    assert harness.upload(licence="GPL-3.0-only").report.datanet_licence is None


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
