"""Bodies that are too large for memory, handed to synchronous services as iterators."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio.from_thread
from starlette.datastructures import UploadFile

from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

CHUNK_BYTES = 1 << 16


@asynccontextmanager
async def uploaded(request: Request) -> AsyncIterator[Iterator[bytes]]:
    """The body itself, or its form field `file`. Read the iterator in a worker thread of anyio."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield _from_thread(request.stream())
        return
    async with request.form(max_files=1, max_fields=0) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("The form has no file under the name 'file'.", param="file")
        yield iter(lambda: file.file.read(CHUNK_BYTES), b"")


def _from_thread(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    async def next_chunk() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(next_chunk)) is not None:
        yield chunk
