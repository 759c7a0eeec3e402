from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.contribution import UploadState
from backend.services.contribute import check_upload
from tests.support.contributions import ALICE, BOB, ContributionHarness, jsonl

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.near_duplicates import NearCopies

LONG = (
    "Returns the number of items in the list, or zero if there are none. "
    "Lists that are still being filled are counted as they stand at that moment."
)
OTHER = "Opens the file for reading and raises an error that names it where it cannot be found on the disk."


@pytest.fixture
def any_world(database: Database, tmp_path: Path) -> ContributionHarness:
    """On SQLite and on PostgreSQL."""
    return ContributionHarness(database, tmp_path)


def texts(*found: str) -> bytes:
    return jsonl(*({"text": text} for text in found))


def near(harness: ContributionHarness, content: bytes, signer: object = BOB) -> NearCopies:
    upload = harness.upload(content, signer)
    kept = harness.contributions.status(upload.id).report.near_copies
    assert kept is not None
    assert kept == upload.report.near_copies
    return kept


def test_a_near_duplicate_row_is_reported_and_is_not_a_defect(
    any_world: ContributionHarness,
) -> None:
    content = texts(OTHER, LONG, LONG.replace("moment", "time"), LONG.replace("moment", "point"))
    upload = any_world.upload(content)
    assert upload.state is UploadState.DRAFT
    found = upload.report.near_copies
    assert found is not None
    assert (found.num_in_upload, found.num_in_datanet) == (2, 0)
    assert [(one.line, one.of_upload) for one in found.first] == [(3, upload.id), (4, upload.id)]
    assert found.first[0].of_line == 2
    assert found.first[1].of_line in {2, 3}, "the one that is most alike"
    assert all(800_000 <= one.similarity_ppm < 1_000_000 for one in found.first)


def test_rows_near_a_submitted_contribution_are_named_with_whose_they_are(
    any_world: ContributionHarness,
) -> None:
    first = any_world.submit(texts(OTHER, LONG), ALICE)
    copied = texts("Something that nobody said.", LONG.upper(), OTHER.replace("disk", "drive"))
    found = near(any_world, copied)
    assert (found.num_in_upload, found.num_in_datanet) == (0, 2)
    assert [(one.line, one.of_line, one.of_account, one.of_index) for one in found.first] == [
        (2, 2, ALICE.account, None),
        (3, 1, ALICE.account, None),
    ]
    any_world.record(first, 4)
    any_world.curation.advance()
    assert [one.of_index for one in near(any_world, copied).first] == [4, 4]


def test_drafts_and_rejected_contributions_are_no_ones_copies(any_world: ContributionHarness) -> None:
    any_world.upload(texts(LONG), ALICE)
    assert near(any_world, texts(LONG.upper())).num_in_datanet == 0
    first = any_world.submit(texts(OTHER), ALICE)
    assert near(any_world, texts(OTHER.upper())).num_in_datanet == 1
    any_world.record(first, is_accepted=False)
    any_world.curation.advance()
    assert near(any_world, texts(OTHER.upper())).num_in_datanet == 0


def test_equal_rows_are_defects_and_not_near_copies_as_well(any_world: ContributionHarness) -> None:
    upload = any_world.upload(texts(LONG, LONG))
    assert upload.report.defect_counts == {"repeated_row": 1}
    assert upload.report.near_copies is not None
    assert upload.report.near_copies.num_in_upload == 0


def test_a_band_that_all_rows_share_is_not_compared_row_by_row(any_world: ContributionHarness) -> None:
    rows = [LONG + str(number) for number in range(3000)]
    any_world.staging.max_bytes = 1 << 30
    first = any_world.upload(texts(*rows))
    assert first.report.near_copies is not None
    assert first.report.near_copies.num_in_upload == 2999
    assert len(first.report.near_copies.first) == check_upload.MAX_NEAR_COPIES_REPORTED
    any_world.contributions.submit(first.id, any_world.sign(first))
    assert near(any_world, texts(*(row + "0" for row in rows))).num_in_datanet == 3000


def test_portions_of_an_upload_are_compared_with_each_other(
    any_world: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.contribute.canonical_rows.BYTES_AT_ONCE", 10)
    monkeypatch.setattr("backend.services.contribute.uploads.ROWS_AT_ONCE", 1)
    first = any_world.submit(texts(LONG, OTHER, LONG.upper()), ALICE)
    assert first.report.near_copies is not None
    assert [(one.line, one.of_line) for one in first.report.near_copies.first] == [(3, 1)]
    found = near(any_world, texts(OTHER.upper(), LONG.upper() + "!"))
    assert [one.line for one in found.first] == [1, 2]
