"""Bodies that are too large for memory, handed to synchronous services as iterators."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
from anyio import CapacityLimiter
from starlette.datastructures import UploadFile

from backend.domain.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

CHUNK_BYTES = 1 << 16
STALL_SECONDS = 60
MAX_FIELDS = 8
"""Of a form, beside its file."""


class UploadsBusy(Unavailable):
    """As many uploads as are taken at once are under way."""


class UploadStalled(InvalidInput):
    """The client stopped sending in the middle."""


class UploadSlots:
    """A thread of its own for each of `count` uploads: slow ones hold up nobody but each other. Used from one
    event loop.
    """

    def __init__(self, count: int) -> None:
        self._free = count

    @contextmanager
    def take(self) -> Iterator[CapacityLimiter]:
        """The limiter to run the upload's thread under. Raises UploadsBusy."""
        if not self._free:
            raise UploadsBusy("Other uploads are under way; nothing was kept, try again.")
        self._free -= 1
        try:
            yield CapacityLimiter(1)
        finally:
            self._free += 1


@asynccontextmanager
async def uploaded(request: Request) -> AsyncIterator[Iterator[bytes]]:
    """The body itself, or its form field `file`. Read the iterator in a worker thread of anyio."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield body(request)
        return
    async with request.form(max_files=1, max_fields=0) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("The form has no file under the name 'file'.", param="file")
        yield iter(lambda: file.file.read(CHUNK_BYTES), b"")


@dataclass(frozen=True, slots=True)
class UploadedForm:
    filename: str
    content: Iterator[bytes]
    """Of the field `file`. Read it in a worker thread."""
    fields: dict[str, str]
    """All others."""


@asynccontextmanager
async def uploaded_form(request: Request) -> AsyncIterator[UploadedForm]:
    """Raises InvalidInput if it is no form with a file."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidInput("Send a form (multipart/form-data) with the rows as 'file'.", param="file")
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("The form has no file under the name 'file'.", param="file")
        content = iter(lambda: file.file.read(CHUNK_BYTES), b"")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        yield UploadedForm(file.filename or "file", content, fields)


def body(request: Request) -> Iterator[bytes]:
    """Whatever its type. Read it in a worker thread of anyio."""
    stream: AsyncIterator[bytes] = request.stream()

    async def next_chunk() -> bytes | None:
        try:
            with anyio.fail_after(STALL_SECONDS):
                return await anext(stream, None)
        except TimeoutError as error:
            raise UploadStalled(f"Nothing came for {STALL_SECONDS} seconds; upload it again.") from error

    while (chunk := anyio.from_thread.run(next_chunk)) is not None:
        yield chunk
