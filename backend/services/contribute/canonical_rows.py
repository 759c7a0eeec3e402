"""Validates the rows of an upload and writes them in canonical form, in bounded memory."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from backend.domain.dataset import Defect, Row, RowFormat, split_lines
from backend.domain.errors import InvalidInput
from backend.domain.ids import Hash32
from backend.domain.streams import at_most
from backend.services.contribute.read_parquet import MAGIC, parquet_lines
from backend.services.contribute.read_rows import RowReader
from backend.services.contribute.uploads import ROWS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self, TextIO

    from backend.services.contribute.profile import Profiler

MAX_DEFECTS_REPORTED = 100
MAX_DEFECTS_STORED = 10_000
MAX_ROWS = 5_000_000
MAGIC_BYTES = 6
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
}
"""Magic numbers of compressed files. No row starts with one."""

StoreRows = Callable[[Sequence[tuple[Row, Hash32]]], None]
"""Stores rows with their hashes, in order."""
RowFilter = Callable[[Iterable[Sequence[tuple[Row, Hash32]]]], Iterable[Sequence[tuple[Row, Hash32]]]]
"""Takes batches of rows, and returns of each batch the rows that may be contributed."""
BYTES_AT_ONCE = 1 << 20
"""Bytes after which a batch of rows ends; its last row may exceed them."""


class UploadTooLarge(InvalidInput):
    """The upload exceeds the installation's limit, `details["max_bytes"]`."""


class TooManyRows(UploadTooLarge):
    """The upload has more lines than `details["max_rows"]`. Split it into several uploads."""


class EmptyUpload(InvalidInput):
    """The upload has no rows."""


class CompressedUpload(InvalidInput):
    """The upload is an archive or a compressed stream, whose decompressed size is unknown."""


@dataclass(frozen=True, slots=True)
class CanonicalRows:
    """The valid rows, written to the canonical file."""

    format: RowFormat | None
    num_lines: int
    """Lines read, valid or not."""
    num_bytes: int
    content_hash: Hash32


class DefectLog:
    """Collects defects: counts of all, the first ones in memory, the first 10,000 in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self.first: list[Defect] = []
        self.counts: Counter[str] = Counter()

    def add(self, defect: Defect) -> None:
        self.counts[defect.code] += 1
        if self.counts.total() > MAX_DEFECTS_STORED:
            return
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps(asdict(defect)) + "\n")
        if len(self.first) < MAX_DEFECTS_REPORTED:
            self.first.append(defect)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def read_defects(path: Path) -> Iterator[Defect]:
    """Read the file of a `DefectLog`."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield Defect(**json.loads(line))


def write_upload(
    stream: Iterable[bytes],
    target: Path,
    max_bytes: int,
    log: DefectLog,
    profiler: Profiler,
    store_rows: StoreRows,
    row_filter: RowFilter,
) -> CanonicalRows:
    """Write the valid rows of JSONL or Parquet that pass `row_filter` to `target` in canonical form.

    Errors: `UploadTooLarge`, `TooManyRows`, `EmptyUpload`, `CompressedUpload`, `UnreadableParquet`,
    `ParquetTooDense`.
    """
    message = f"the upload has more than {max_bytes} bytes"
    too_large = UploadTooLarge(message, details={"max_bytes": max_bytes})
    head, stream = _peek(at_most(max_bytes, stream, too_large))
    _refuse_compressed(head)
    if not head:
        raise EmptyUpload("the upload is empty: send one JSON object per line")
    if not head.startswith(MAGIC):
        return write_rows(stream, target, log, profiler, store_rows, row_filter)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".parquet") as spool:
        spool.writelines(stream)
        spool.flush()
        lines = at_most(max_bytes, parquet_lines(Path(spool.name), log.add), too_large)
        rows = write_rows(lines, target, log, profiler, store_rows, row_filter)
    if not rows.num_lines and not log.counts:
        raise EmptyUpload("the upload is empty: the Parquet file has no rows")
    return rows


def write_rows(
    stream: Iterable[bytes],
    target: Path,
    log: DefectLog,
    profiler: Profiler,
    store_rows: StoreRows,
    row_filter: RowFilter,
) -> CanonicalRows:
    """Write the valid rows of JSONL, of which there may be none."""
    digest = sha256()
    num_bytes = 0
    reader = RowReader()
    lines = _Lines(reader, log)
    with target.open("wb") as file:
        for rows in row_filter(_batches(lines.valid_rows(stream))):
            profiler.add(rows)
            block = b"".join([row.canonical + b"\n" for row, _ in rows])
            file.write(block)
            digest.update(block)
            num_bytes += len(block)
            store_rows(rows)
    return CanonicalRows(reader.format, lines.number, num_bytes, Hash32("0x" + digest.hexdigest()))


class _Lines:
    def __init__(self, reader: RowReader, log: DefectLog) -> None:
        self._reader = reader
        self._log = log
        self.number = 0
        """Number of the last line read."""

    def valid_rows(self, stream: Iterable[bytes]) -> Iterator[Row]:
        """Yield valid rows; log the defects of other lines."""
        for number, raw in enumerate(split_lines(stream), start=1):
            self.number = number
            if number > MAX_ROWS:
                raise TooManyRows(f"the upload has more than {MAX_ROWS} rows", details={"max_rows": MAX_ROWS})
            row = self._reader.read(number, raw)
            if isinstance(row, Row):
                yield row
            else:
                for defect in row:
                    self._log.add(defect)


def _batches(rows: Iterable[Row]) -> Iterator[list[tuple[Row, Hash32]]]:
    """Batches of rows with their hashes, limited in rows and bytes."""
    batch: list[tuple[Row, Hash32]] = []
    num_bytes = 0
    for row in rows:
        batch.append((row, row.hash))
        num_bytes += len(row.canonical)
        if len(batch) == ROWS_AT_ONCE or num_bytes >= BYTES_AT_ONCE:
            yield batch
            batch, num_bytes = [], 0
    yield batch


def _peek(stream: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """(the first bytes, which identify the format; the whole stream)."""
    chunks = iter(stream)
    head = b""
    while len(head) < MAGIC_BYTES and (chunk := next(chunks, None)) is not None:
        head += chunk
    return head, itertools.chain((head,), chunks)


def _refuse_compressed(head: bytes) -> None:
    kind = next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None)
    if kind is not None:
        raise CompressedUpload(f"the upload is a {kind} file: send uncompressed rows, or Parquet")
