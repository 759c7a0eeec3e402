"""Parsers of uploads: JSONL rows, Parquet files, the headers of tus."""

from __future__ import annotations

import contextlib
import io
import resource
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from backend.api.tus import parse_checksum, parse_metadata
from backend.domain.dataset import LineChecker, split_lines
from backend.domain.errors import InvalidInput
from backend.services.contribute.parquet_rows import main
from backend.services.contribute.read_rows import RowReader
from tests.fuzz.mutations import behind, json_lines
from tests.fuzz.target import Bytes, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

PARQUET_BYTES = 256 << 20
"""Of 512 MiB that the child process may have, libraries included."""
STATM_DATA = 5  # pages of data and stack, in proc(5)


def jsonl(data: bytes) -> None:
    """The fast reader and the reference agree on each line. The first byte is the length of the pieces."""
    source = Bytes(data)
    size = 1 + source.number()
    content = source.rest()
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    fast, reference = RowReader(), LineChecker()
    for number, line in enumerate(split_lines(pieces), 1):
        assert fast.read(number, line) == reference.check(number, line)


def jsonl_seeds() -> list[bytes]:
    chat = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"source":"s"}'
    return [
        b"\x07" + chat + b"\n" + chat,
        b'\xff{"prompt":"a","completion":"\\u00e9"}\n{"prompt":"b","completion":"c","prompt":"d"}\n',
        b'\xff\xef\xbb\xbf{"text":"a"}\r\n{"text": "b", "x": NaN}\r\n\n[[[]]]',
    ]


def parquet(data: bytes) -> None:
    """What the child process runs, within a limit of memory as there. What it writes are whole lines."""
    with tempfile.NamedTemporaryFile(prefix="loraledger-fuzz-") as file:
        file.write(data)
        file.flush()
        out = io.BytesIO()
        with contextlib.redirect_stderr(io.StringIO()), _limited_memory():
            main(file.name, out)
    lines = out.getvalue()
    assert not lines or lines.endswith(b"\n")


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Raise `MemoryError` for more than the child process has left once it has loaded its libraries."""
    pages = int(Path("/proc/self/statm").read_text().split()[STATM_DATA])
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + PARQUET_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def parquet_seeds() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chat = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    tables = ({"messages": chat}, {"prompt": ["a", None], "completion": ["b", "c"]}, {"text": [1, 2]})
    found = []
    for columns in tables:
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out, compression="none", store_schema=False)
        found.append(out.getvalue())
    return found


def tus(data: bytes) -> None:
    """Both headers, as an ASGI server decodes them."""
    text = data.decode("latin-1")
    for parse in (parse_metadata, parse_checksum):
        with contextlib.suppress(InvalidInput):
            parse(text)


def tus_seeds() -> list[bytes]:
    return [
        b"filename YS5qc29ubA==,licence TUlU",
        b"sha256 AAAA",
        b"sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        b"a,b",
    ]


TARGETS = (
    Target("jsonl", jsonl, jsonl_seeds, max_bytes=8192, mutate=behind(1, json_lines)),
    Target("parquet", parquet, parquet_seeds),
    Target("tus", tus, tus_seeds, max_bytes=1100),
)
