"""Files with sound rows and others: refused as a whole, or contributed in part where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.contribution import UploadState
from tests.support.contributions import ALICE, BOB, ContributionHarness, jsonl

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database

THEIRS = jsonl({"text": "theirs"})
ENDING = jsonl({"text": "b"}, {"text": "a"}, {"text": "c"})
MIXED = jsonl({"text": "a"}, {"text": 1}) + THEIRS + b"nope\n" + ENDING
SOUND = jsonl({"text": "a"}, {"text": "b"}, {"text": "c"}).replace(b": ", b":")
LEFT_OUT = {2: "wrong_type", 3: "copied_row", 4: "malformed_json", 6: "repeated_row"}


@pytest.fixture
def any_world(database: Database, tmp_path: Path) -> ContributionHarness:
    """On SQLite and on PostgreSQL."""
    return ContributionHarness(database, tmp_path)


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


@pytest.mark.parametrize("rows_at_once", [1, 2000])
def test_valid_rows_are_contributed_if_the_contributor_accepts_a_partial_upload(
    any_world: ContributionHarness, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr("backend.services.contribute.check_upload.ROWS_AT_ONCE", rows_at_once)
    any_world.submit(THEIRS, BOB)
    assert any_world.upload(MIXED).state is UploadState.INVALID, "not without the word"
    upload = any_world.upload(MIXED, accepts_partial=True)
    report = upload.report
    assert (upload.state, report.num_rows, report.num_left_out) == (UploadState.DRAFT, 3, 4)
    assert (report.num_characters, report.num_bytes) == (3, len(SOUND))
    assert report.profile is not None
    assert report.profile.num_sampled == 3
    assert {defect.line: defect.code for defect in any_world.contributions.defects(upload.id)} == LEFT_OUT
    submitted = any_world.contributions.submit(upload.id, any_world.sign(upload))
    assert report.cid is not None
    assert any_world.store.read(report.cid, "data.jsonl") == SOUND
    any_world.record(submitted, 0, is_accepted=True)
    any_world.curation.advance()
    assert {defect.line: defect.code for defect in any_world.contributions.defects(upload.id)} == LEFT_OUT


def test_the_same_rows_without_the_others_are_the_same_contribution(harness: ContributionHarness) -> None:
    harness.submit(THEIRS, BOB)
    partly, whole = harness.upload(MIXED, accepts_partial=True), harness.upload(SOUND)
    assert partly.report.content_hash == whole.report.content_hash
    assert (whole.report.num_left_out, whole.report.defect_counts) == (0, {})


def test_rows_that_were_left_out_stay_whose_they_were(harness: ContributionHarness) -> None:
    harness.submit(THEIRS, BOB)
    mine = harness.upload(MIXED, accepts_partial=True)
    harness.contributions.submit(mine.id, harness.sign(mine))
    copied = [d for d in harness.upload(MIXED, BOB).report.defects if d.code == "copied_row"]
    owners = {defect.line: defect.message.rpartition(" ")[2] for defect in copied}
    assert owners == {1: ALICE.account, 3: BOB.account, 5: ALICE.account, 6: ALICE.account, 7: ALICE.account}


@pytest.mark.parametrize("content", [b"nope\n", THEIRS, THEIRS + b"nope\n" + THEIRS])
def test_where_no_row_is_left_nothing_is_contributed(harness: ContributionHarness, content: bytes) -> None:
    harness.submit(THEIRS, BOB)
    upload = harness.upload(content, accepts_partial=True)
    assert (upload.state, upload.report.num_left_out) == (UploadState.INVALID, 0)


def test_a_sound_file_is_contributed_whole(harness: ContributionHarness) -> None:
    upload = harness.upload(SOUND, accepts_partial=True)
    assert (upload.state, upload.report.num_left_out) == (UploadState.DRAFT, 0)


def test_the_valid_rows_must_not_equal_a_recorded_file(harness: ContributionHarness) -> None:
    harness.record(harness.upload(SOUND, BOB), 0)
    upload = harness.upload(SOUND + b"nope\n", ALICE, accepts_partial=True)
    assert upload.state is UploadState.INVALID
    assert upload.report.defects[-1].code == "copied_file"
