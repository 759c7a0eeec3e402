"""One upload from its bytes to its canonical file and everything that is wrong with it, in bounded memory."""

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
from backend.services.contribute.read_parquet import MAGIC, parquet_lines
from backend.services.contribute.read_rows import RowReader
from backend.services.contribute.uploads import ROWS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self, TextIO

    from backend.services.contribute.profile import Profiler

MAX_DEFECTS_SHOWN = 100
MAX_DEFECTS_KEPT = 10_000
MAX_ROWS = 5_000_000
MAGIC_BYTES = 6
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
}
"""How such a file starts; no row does."""

KeepRows = Callable[[Sequence[tuple[Row, Hash32]]], None]
"""Takes some rows and their hashes, in order."""
Screen = Callable[[Iterable[Sequence[tuple[Row, Hash32]]]], Iterable[Sequence[tuple[Row, Hash32]]]]
"""Takes them portion by portion, and hands on of each those that may be contributed."""
CHARACTERS_AT_ONCE = 1 << 20
"""Of rows that are handed on together, with their last one's to come."""


class UploadTooLarge(InvalidInput):
    """More bytes than this installation takes; `details["max_bytes"]` says how many."""


class TooManyRows(UploadTooLarge):
    """More lines than an upload may have; `details["max_rows"]` says how many. Upload them in parts."""


class EmptyUpload(InvalidInput):
    """No bytes at all."""


class CompressedUpload(InvalidInput):
    """An archive or a compressed stream: what it grows to is not known before it is there."""


@dataclass(frozen=True, slots=True)
class Received:
    """Sound rows, written to the canonical file."""

    format: RowFormat | None
    num_lines: int
    """All that were read."""
    num_bytes: int
    content_hash: Hash32


class DefectLog:
    """The first 10,000 go to a file, one JSON object a line; the very first and all counts stay at hand."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self.first: list[Defect] = []
        self.counts: Counter[str] = Counter()

    def add(self, defect: Defect) -> None:
        self.counts[defect.code] += 1
        if self.counts.total() > MAX_DEFECTS_KEPT:
            return
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps(asdict(defect)) + "\n")
        if len(self.first) < MAX_DEFECTS_SHOWN:
            self.first.append(defect)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def read_defects(path: Path) -> Iterator[Defect]:
    """What a `DefectLog` wrote."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield Defect(**json.loads(line))


def receive(
    stream: Iterable[bytes],
    target: Path,
    max_bytes: int,
    log: DefectLog,
    profiler: Profiler,
    keep_rows: KeepRows,
    screen: Screen,
) -> Received:
    """Sound rows of JSONL or Parquet that pass `screen` go to `target` in canonical form.

    Errors: `UploadTooLarge`, `TooManyRows`, `EmptyUpload`, `CompressedUpload`, `UnreadableParquet`,
    `ParquetTooDense`.
    """
    head, stream = _peeked(_limited(stream, max_bytes))
    _refuse_compressed(head)
    if not head:
        raise EmptyUpload("the upload is empty: send one JSON object a line")
    if not head.startswith(MAGIC):
        return write_rows(stream, target, log, profiler, keep_rows, screen)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".parquet") as spool:
        spool.writelines(stream)
        spool.flush()
        lines = _limited(parquet_lines(Path(spool.name), log.add), max_bytes)
        received = write_rows(lines, target, log, profiler, keep_rows, screen)
    if not received.num_lines and not log.counts:
        raise EmptyUpload("the upload is empty: its Parquet has no row")
    return received


def write_rows(
    stream: Iterable[bytes],
    target: Path,
    log: DefectLog,
    profiler: Profiler,
    keep_rows: KeepRows,
    screen: Screen,
) -> Received:
    """Sound rows of JSONL, of which there may be none."""
    digest = sha256()
    num_bytes = 0
    reader = RowReader()
    lines = _Lines(reader, log)
    with target.open("wb") as file:
        for rows in screen(_portions(lines.sound(stream))):
            profiler.add(rows)
            block = b"".join([row.canonical + b"\n" for row, _ in rows])
            file.write(block)
            digest.update(block)
            num_bytes += len(block)
            keep_rows(rows)
    return Received(reader.format, lines.number, num_bytes, Hash32("0x" + digest.hexdigest()))


class _Lines:
    def __init__(self, reader: RowReader, log: DefectLog) -> None:
        self._reader = reader
        self._log = log
        self.number = 0
        """Of the line read last."""

    def sound(self, stream: Iterable[bytes]) -> Iterator[Row]:
        """The rows; what is wrong with the other lines goes to the log."""
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


def _portions(rows: Iterable[Row]) -> Iterator[list[tuple[Row, Hash32]]]:
    """Rows with their hashes, so many at a time that they take little memory."""
    portion: list[tuple[Row, Hash32]] = []
    num_characters = 0
    for row in rows:
        portion.append((row, row.hash))
        num_characters += row.num_characters
        if len(portion) == ROWS_AT_ONCE or num_characters >= CHARACTERS_AT_ONCE:
            yield portion
            portion, num_characters = [], 0
    yield portion


def _peeked(stream: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, enough to tell formats apart, and the whole stream."""
    chunks = iter(stream)
    head = b""
    while len(head) < MAGIC_BYTES and (chunk := next(chunks, None)) is not None:
        head += chunk
    return head, itertools.chain((head,), chunks)


def _refuse_compressed(head: bytes) -> None:
    kind = next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None)
    if kind is not None:
        raise CompressedUpload(f"the upload is a {kind} file: send the rows themselves, or Parquet")


def _limited(stream: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    received = 0
    for chunk in stream:
        received += len(chunk)
        if received > max_bytes:
            details = {"max_bytes": max_bytes}
            raise UploadTooLarge(f"the upload has more than {max_bytes} bytes", details=details)
        yield chunk
