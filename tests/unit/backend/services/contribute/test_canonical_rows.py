from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.contribution import UploadState
from backend.domain.errors import Conflict, DiskFull, InvalidInput, NotFound
from backend.domain.ids import DatanetId
from backend.services.contribute.canonical_rows import (
    MAX_DEFECTS_REPORTED,
    CompressedUpload,
    EmptyUpload,
    TooManyRows,
    UploadTooLarge,
)
from backend.services.contribute.licences import UnknownLicence
from tests.support.contributions import ALICE, BOB, MAX_BYTES, NET, ROWS, ContributionHarness, jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.db.unit_of_work import Database


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


@pytest.fixture
def any_world(database: Database, tmp_path: Path) -> ContributionHarness:
    """On SQLite and on PostgreSQL."""
    return ContributionHarness(database, tmp_path)


def staged(harness: ContributionHarness) -> list[str]:
    return [path.name for path in (harness.folder / "uploads").glob("*")]


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", content)
    return file.getvalue()


def test_every_defect_is_reported_and_nothing_recorded(any_world: ContributionHarness) -> None:
    upload = any_world.upload(b'{"prompt": 1}\n\nnope\n{"prompt": "a", "completion": "b", "x": 1}\n')
    assert upload.state is UploadState.INVALID
    found = [(defect.line, defect.code, defect.field) for defect in upload.report.defects]
    assert found == [
        (1, "wrong_type", "prompt"),
        (1, "missing_field", "completion"),
        (2, "empty_line", None),
        (3, "malformed_json", None),
        (4, "unknown_field", "x"),
    ]
    assert list(any_world.contributions.defects(upload.id)) == list(upload.report.defects)
    assert upload.report.content_hash is None
    with pytest.raises(Conflict):
        any_world.contributions.typed_data(upload.id)
    with pytest.raises(Conflict):
        any_world.contributions.submit(upload.id, "0x" + "11" * 65)
    assert any_world.queued() == []


def test_more_defects_than_are_shown_are_all_kept(harness: ContributionHarness) -> None:
    upload = harness.upload(b"x\n" * 300)
    assert len(upload.report.defects) == MAX_DEFECTS_REPORTED
    assert upload.report.defect_counts == {"malformed_json": 300}
    assert [defect.line for defect in harness.contributions.defects(upload.id)] == list(range(1, 301))


def test_after_many_defects_the_others_are_only_counted(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.contribute.canonical_rows.MAX_DEFECTS_STORED", 5)
    upload = harness.upload(b"x\n" * 8)
    assert upload.report.defect_counts == {"malformed_json": 8}
    assert [defect.line for defect in harness.contributions.defects(upload.id)] == [1, 2, 3, 4, 5]


def test_an_upload_of_too_many_rows_is_refused_and_leaves_nothing(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.contribute.canonical_rows.MAX_ROWS", 2)
    assert harness.upload(ROWS).state is UploadState.DRAFT
    with pytest.raises(TooManyRows) as caught:
        harness.upload(ROWS + ROWS)
    assert caught.value.details == {"max_rows": 2}
    assert len(harness.contributions.find()) == len(staged(harness)) == 1


def test_an_empty_upload_is_refused_and_leaves_nothing(harness: ContributionHarness) -> None:
    for nothing in (b"", []):
        with pytest.raises(EmptyUpload):
            harness.upload(nothing)
    assert harness.contributions.find() == []
    assert staged(harness) == []


def test_an_oversized_upload_is_refused_while_it_comes_in(harness: ContributionHarness) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield ROWS

    with pytest.raises(UploadTooLarge) as caught:
        harness.upload(endless())
    assert caught.value.details == {"max_bytes": MAX_BYTES}
    assert taken == MAX_BYTES // len(ROWS) + 1
    assert harness.contributions.find() == []
    assert staged(harness) == []


def test_an_upload_that_breaks_off_leaves_nothing(harness: ContributionHarness) -> None:
    def broken() -> Iterator[bytes]:
        yield ROWS
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        harness.upload(broken())
    assert harness.contributions.find() == []
    assert staged(harness) == []


@pytest.mark.parametrize("licence", ["", "  ", "my own", "MIT; drop", "MIT AND"])
def test_a_licence_that_spdx_does_not_know_is_refused(harness: ContributionHarness, licence: str) -> None:
    with pytest.raises(UnknownLicence):
        harness.upload(licence=licence)


def test_names_and_datanets_are_checked(harness: ContributionHarness) -> None:
    for name in ("", " ", "a\nb", "x" * 101):
        with pytest.raises(InvalidInput):
            harness.contributions.upload(ALICE.account, NET, name, [ROWS], "MIT")
    with pytest.raises(NotFound):
        harness.contributions.upload(ALICE.account, DatanetId(9), "x", [ROWS], "MIT")


def test_a_row_that_occurs_twice_in_the_file_is_reported(any_world: ContributionHarness) -> None:
    upload = any_world.upload(ROWS + b'{"completion":"A letter.","prompt":"What is a?"}\n' + ROWS)
    assert upload.state is UploadState.INVALID
    found = [(d.line, d.code, d.message) for d in upload.report.defects]
    assert found == [(n, "repeated_row", f"the same as line {of}") for n, of in ((3, 1), (4, 1), (5, 2))]


def test_rows_of_a_submitted_contribution_are_refused_with_whose_they_are(
    any_world: ContributionHarness,
) -> None:
    first = any_world.submit()
    copy = any_world.upload(jsonl({"prompt": "new?", "completion": "yes"}) + ROWS, BOB)
    assert copy.state is UploadState.INVALID
    assert [(d.line, d.code) for d in copy.report.defects] == [(2, "copied_row"), (3, "copied_row")]
    assert ALICE.account in copy.report.defects[0].message
    any_world.record(first, 0)
    any_world.curation.advance()
    again = any_world.upload(ROWS, BOB)
    assert f"line 1 of contribution 0 by {ALICE.account}" in again.report.defects[0].message


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "What is a? ", "completion": "A letter."},
        {"prompt": "What is a?", "completion": "A letter.", "source": "elsewhere"},
        {
            "messages": [
                {"role": "user", "content": "What is a?"},
                {"role": "assistant", "content": "\nA letter."},
            ]
        },
    ],
)
def test_a_copy_with_another_source_or_other_spaces_is_refused(
    harness: ContributionHarness, changed: dict[str, Any]
) -> None:
    harness.submit()
    copy = harness.upload(jsonl(changed, {**changed, "source": "another"}), BOB)
    found = [(defect.line, defect.code) for defect in copy.report.defects]
    assert found == [(2, "repeated_row"), (1, "copied_row"), (2, "copied_row")]


@pytest.mark.deep
def test_large_uploads_are_not_compared_row_by_row(
    any_world: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(any_world.staging, "max_bytes", 1 << 30)
    rows = [b'{"text": "row %d"}\n' % i for i in range(60_000)]
    first = any_world.upload(rows)
    assert first.state is UploadState.DRAFT
    any_world.contributions.submit(first.id, any_world.sign(first))
    again = any_world.upload([*rows, rows[0]], BOB)
    assert again.report.defect_counts == {"repeated_row": 1, "copied_row": 60_001}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zipped])
def test_compressed_files_are_refused_at_any_size(
    harness: ContributionHarness, pack: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(CompressedUpload, match="send uncompressed rows"):
        harness.upload([b"", *(bytes((byte,)) for byte in pack(ROWS * 1000))])
    assert harness.contributions.find() == []


def test_a_line_of_a_hundred_megabytes_is_a_defect_and_takes_no_memory(harness: ContributionHarness) -> None:
    harness.staging.max_bytes = 1 << 30
    chunk = b"x" * 65_536
    tracemalloc.start()
    try:
        upload = harness.upload(
            itertools.chain(ROWS.splitlines(keepends=True), [chunk] * 1600, [b"\n"], [ROWS])
        )
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    found = [(defect.line, defect.code) for defect in upload.report.defects]
    assert found == [(3, "line_too_long"), (4, "repeated_row"), (5, "repeated_row")]
    assert peak < 16 << 20


def test_a_full_disk_is_named_and_nothing_kept(
    harness: ContributionHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.staging, "data", lambda _upload: Path("/dev/full"))
    with pytest.raises(DiskFull, match="disk is full"):
        harness.upload()
    assert harness.contributions.find() == []
    assert staged(harness) == []
