"""Parquet as JSON lines, made by a process of its own.

A Parquet file of a few kilobytes can hold gigabytes, and its decoder is a large body of native code that a
stranger's bytes drive. So a child with bounded memory and time decodes it (`python -m
backend.services.contribute.parquet_rows`), and what comes out is checked like any other upload.
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
    """Cut off, damaged, or not what a Parquet file says it is."""


class ParquetTooDense(InvalidInput):
    """Its pages need more memory than a check may take: a bomb, or rows far beyond the limit of a line."""


def parquet_lines(path: Path, add: Callable[[Defect], None]) -> Iterator[bytes]:
    """JSON lines in chunks, one a row, in order. Wrong columns are defects of line 1, and no row comes.

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
            "write it with smaller pages and rows, or send JSONL",
            details={"status": status},
        )
