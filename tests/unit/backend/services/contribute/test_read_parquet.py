from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.domain.contribution import UploadState
from backend.services.contribute.canonical_rows import EmptyUpload, UploadTooLarge
from backend.services.contribute.read_parquet import ParquetTooDense, UnreadableParquet
from tests.support.contributions import MAX_BYTES, ContributionHarness, jsonl

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture
def harness(sqlite_database: Database, tmp_path: Path) -> ContributionHarness:
    return ContributionHarness(sqlite_database, tmp_path)


def parquet(table: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def defects(harness: ContributionHarness, content: bytes) -> list[tuple[int, str, str | None]]:
    upload = harness.upload(content)
    assert upload.state is UploadState.INVALID
    return [(defect.line, defect.code, defect.field) for defect in upload.report.defects]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "a?", "completion": "é"}, {"prompt": "b?", "completion": "c", "source": "s"}],
        [{"text": "one"}, {"text": "two"}],
        [
            {
                "messages": [
                    {"role": "system", "content": "be nice"},
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "hello"},
                ]
            },
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        ],
    ],
)
def test_parquet_and_jsonl_of_the_same_rows_are_the_same_contribution(
    harness: ContributionHarness, rows: list[dict[str, Any]]
) -> None:
    columns = {name for row in rows for name in row}
    table = pa.Table.from_pylist([dict.fromkeys(columns) | row for row in rows])
    uploads = harness.upload(parquet(table)), harness.upload(jsonl(*rows))
    assert [upload.state for upload in uploads] == [UploadState.DRAFT, UploadState.DRAFT]
    assert uploads[0].report == uploads[1].report
    assert sorted(path.name for path in harness.staging.data(uploads[0].id).parent.iterdir()) == [
        "data.jsonl"
    ]


def test_a_file_without_columns_is_refused(harness: ContributionHarness) -> None:
    """Before its rows are read: it may announce any number of them."""
    with pytest.raises(UnreadableParquet, match="no columns"):
        harness.upload(parquet(pa.table({})))


def test_columns_of_wrong_types_are_all_named_and_no_row_is_read(harness: ContributionHarness) -> None:
    pair = pa.struct([("role", pa.string()), ("content", pa.int8())])
    table = pa.table(
        {
            "prompt": pa.array([1], pa.int64()),
            "completion": pa.array([b"x"], pa.binary()),
            "messages": pa.array([[{"role": "user", "content": 1}]], pa.list_(pair)),
            "source": pa.array(["x"]),
            "when": pa.array([0], pa.timestamp("s")),
        }
    )
    expected = [("wrong_type", "prompt"), ("wrong_type", "completion"), ("wrong_type", "messages")]
    assert defects(harness, parquet(table)) == [
        (1, code, field) for code, field in [*expected, ("unknown_field", "when")]
    ]


def test_a_duplicate_column_is_reported(harness: ContributionHarness) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    assert defects(harness, parquet(table)) == [(1, "duplicate_key", "text")]


def test_rows_are_checked_one_by_one_with_their_numbers(harness: ContributionHarness) -> None:
    table = pa.table({"prompt": ["a", None, " "], "completion": ["x", "y", "z"]})
    assert defects(harness, parquet(table)) == [
        (2, "missing_field", "prompt"),
        (3, "empty", "prompt"),
    ]


def test_strings_that_are_not_utf8_are_a_defect_of_their_row(harness: ContributionHarness) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b"fine too"], pa.binary())
    text = pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2])
    assert defects(harness, parquet(pa.table({"text": text}))) == [(2, "broken_utf8", None)]


def test_a_small_file_of_large_content_is_stopped_at_the_limit_of_an_upload(
    harness: ContributionHarness,
) -> None:
    once = pa.array(["x" * 10_000])
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), once)
    bomb = parquet(pa.table({"text": repeated}))
    assert len(bomb) < MAX_BYTES
    with pytest.raises(UploadTooLarge):
        harness.upload(bomb)
    assert harness.contributions.find() == []


def test_a_page_that_does_not_fit_into_memory_ends_only_the_child(harness: ContributionHarness) -> None:
    bomb = parquet(pa.table({"text": ["x" * 300_000_000]}), compression="zstd", use_dictionary=False)
    assert len(bomb) < MAX_BYTES
    with pytest.raises(ParquetTooDense, match="512 MB"):
        harness.upload(bomb)


@pytest.mark.parametrize("kept", [4, 40, 300])
def test_a_file_cut_off_is_refused(harness: ContributionHarness, kept: int) -> None:
    with pytest.raises(UnreadableParquet):
        harness.upload(parquet(pa.table({"text": ["a", "b"]}))[:kept])


def test_a_file_whose_pages_are_damaged_is_refused(harness: ContributionHarness) -> None:
    whole = bytearray(parquet(pa.table({"text": [f"row {i}" for i in range(999)]}), compression="zstd"))
    whole[20:200] = b"\xee" * 180
    with pytest.raises(UnreadableParquet):
        harness.upload(bytes(whole))


def test_a_file_without_rows_is_an_empty_upload(harness: ContributionHarness) -> None:
    with pytest.raises(EmptyUpload):
        harness.upload(parquet(pa.table({"text": pa.array([], pa.string())})))
