"""Converts Parquet to JSON lines in a child process.

A Parquet file of a few kilobytes can expand to gigabytes, and its decoder is a large body of native code. So
a child process with limited memory and time decodes untrusted files (`python -m
backend.services.contribute.parquet_rows`), and its output is validated like any other upload.
"""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING

from backend.domain.dataset import Defect
from backend.domain.errors import InvalidInput
from backend.processes.child import Child, module_command
from backend.services.contribute.parquet_rows import MEMORY_BYTES, Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import IO

CHILD = "backend.services.contribute.parquet_rows"
MAGIC = b"PAR1"


class UnreadableParquet(InvalidInput):
    """The Parquet file is truncated, corrupt or invalid."""


class ParquetTooDense(InvalidInput):
    """Decoding exceeds the memory limit: a decompression bomb, or rows far beyond the limit of a line."""


def parquet_lines(path: Path, add: Callable[[Defect], None]) -> Iterator[bytes]:
    """Chunks of JSON lines, one per row, in order. Invalid columns are defects of line 1, and yield no rows.

    Errors: `UnreadableParquet`, `ParquetTooDense`.
    """
    with tempfile.TemporaryFile() as errors:
        with Child(module_command(CHILD, path), errors=errors) as child:
            yield from child.chunks()
            status = child.wait()
        _judge(status, errors, add)


def _judge(status: int, errors: IO[bytes], add: Callable[[Defect], None]) -> None:
    errors.seek(0)
    if status == Exit.WRONG_COLUMNS:
        for line in errors:
            add(Defect(**json.loads(line)))
    elif status == Exit.UNREADABLE:
        reason = errors.read(500).decode(errors="replace")
        raise UnreadableParquet(f"the Parquet file cannot be read: {reason}")
    elif status != Exit.DONE:
        megabytes = MEMORY_BYTES >> 20
        raise ParquetTooDense(
            f"the Parquet file cannot be decoded within {megabytes} MB of memory: "
            "write smaller pages and rows, or send JSONL",
            details={"status": status},
        )
