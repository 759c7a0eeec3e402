"""Child process of `read_parquet`: writes the rows of a Parquet file as JSON lines, with limited memory and
time.

Exit codes are `Exit`. Errors go to standard error, invalid columns as one JSON object per line.
"""

from __future__ import annotations

import json
import os
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from backend.processes.parent import Parent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

MEMORY_BYTES = 512 << 20
CPU_SECONDS = 900
BUFFER_BYTES = 1 << 20
"""Read-ahead per column, so that pages are decoded one by one and not a whole row group at once."""
ROWS_AT_ONCE = 256

COLUMNS = {
    "messages": "list<struct<role: string, content: string>>",
    **dict.fromkeys(("prompt", "completion", "text", "source"), "string"),
}
INVALID_UTF8_LINE = b'"\xff"\n'
"""Replaces a row whose strings are not UTF-8, so that validation reports it."""


class Exit(IntEnum):
    DONE = 0
    UNREADABLE = 3
    WRONG_COLUMNS = 4
    TOO_DENSE = 5


def main(path: str, out: BinaryIO) -> Exit:
    """Write whole lines to `out`, also if the file turns out to be invalid."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            defects = list(_column_defects(file.schema_arrow))
            for defect in defects:
                sys.stderr.write(json.dumps(defect) + "\n")
            if defects:
                return Exit.WRONG_COLUMNS
            if not file.schema_arrow.names:  # Arrow would make batches of as many empty rows as it announces
                sys.stderr.write("it has no columns")
                return Exit.UNREADABLE
            for batch in file.iter_batches(ROWS_AT_ONCE, use_threads=False):
                out.writelines(_lines(batch))
    except MemoryError:
        return Exit.TOO_DENSE
    except (pa.ArrowException, OSError, ValueError) as error:
        sys.stderr.write(str(error))
        return Exit.UNREADABLE
    return Exit.DONE


def _column_defects(schema: Any) -> Iterator[dict[str, Any]]:
    """Fields of a `Defect` for each invalid column."""
    seen: set[str] = set()
    for column in schema:
        field = ascii(column.name)[1:-1][:64]
        if column.name in seen:
            yield {
                "line": 1,
                "code": "duplicate_key",
                "message": "is a duplicate column",
                "field": field,
            }
        elif column.name not in COLUMNS:
            yield {
                "line": 1,
                "code": "unknown_field",
                "message": "is no column of any format",
                "field": field,
            }
        elif not (_is_messages if column.name == "messages" else _is_text)(column.type):
            message = f"must be a column of {COLUMNS[column.name]}, not {str(column.type)[:200]}"
            yield {"line": 1, "code": "wrong_type", "message": message, "field": field}
        seen.add(column.name)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_messages(kind: Any) -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_list_view(kind)
    if not is_list or not types.is_struct(kind.value_type):
        return False
    return all(_is_text(field.type) for field in kind.value_type)


def _lines(batch: Any) -> Iterator[bytes]:
    try:
        rows: Iterable[Any] = batch.to_pylist()
    except UnicodeDecodeError:
        yield from _lines_one_by_one(batch)
        return
    for row in rows:
        yield _line(row)


def _lines_one_by_one(batch: Any) -> Iterator[bytes]:
    for index in range(batch.num_rows):
        try:
            yield _line(batch.slice(index, 1).to_pylist()[0])
        except UnicodeDecodeError:
            yield INVALID_UTF8_LINE


def _line(row: dict[str, Any]) -> bytes:
    """Parquet has all columns in all rows, so a null is an absent field."""
    present = {name: value for name, value in row.items() if value is not None}
    return json.dumps(present, ensure_ascii=False).encode() + b"\n"


if __name__ == "__main__":
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # other pools reserve unused memory
    parent = Parent(memory_bytes=MEMORY_BYTES, cpu_seconds=CPU_SECONDS)
    status = main(sys.argv[1], parent.output)
    parent.output.flush()
    os._exit(status)  # too little memory may be left for an orderly exit
