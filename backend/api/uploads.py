"""Streams upload bodies to synchronous services as iterators; they are too large for memory."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio.from_thread
from anyio import CapacityLimiter
from starlette.datastructures import UploadFile

from backend.domain.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

CHUNK_BYTES = 1 << 16
MAX_FIELDS = 8
"""Fields of a form, not counting its file."""


class UploadsBusy(Unavailable):
    """The limit of concurrent uploads is reached, by all callers or by this account or network address."""


class UploadSlots:
    """A separate thread for each of `count` uploads, so that slow uploads do not delay other requests. An
    account has at most a quarter of them, and so has a network address, which may sign in many accounts. Used
    from one event loop.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: Counter[str] = Counter()
        """By holder: accounts and network addresses."""
        self._num_taken = 0

    @contextmanager
    def take(self, account: str, address: str) -> Iterator[CapacityLimiter]:
        """Yields the limiter to run the upload's thread with. Raises UploadsBusy."""
        holders = (account, address)
        share = self._count // 4
        if any(self._taken[holder] >= share for holder in holders):
            raise UploadsBusy(
                f"Your account or network address has {share} uploads running; nothing was stored, try again "
                "when one of them has ended."
            )
        if self._num_taken >= self._count:
            raise UploadsBusy("Too many concurrent uploads; nothing was stored, try again.")
        self._taken.update(holders)
        self._num_taken += 1
        try:
            yield CapacityLimiter(1)
        finally:
            self._num_taken -= 1
            self._taken = self._taken - Counter(holders)  # forgets those that hold none


@asynccontextmanager
async def open_upload(request: Request) -> AsyncIterator[Iterator[bytes]]:
    """The body, or the file of a form. Read the iterator in a worker thread of anyio."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield body(request)
        return
    async with request.form(max_files=1, max_fields=0) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("The form has no file named 'file'.", param="file")
        yield iter(lambda: file.file.read(CHUNK_BYTES), b"")


@dataclass(frozen=True, slots=True)
class UploadedForm:
    filename: str
    content: Iterator[bytes]
    """Content of the field `file`. Read it in a worker thread."""
    fields: dict[str, str]
    """All other fields."""


@asynccontextmanager
async def open_upload_form(request: Request) -> AsyncIterator[UploadedForm]:
    """Raises InvalidInput if the body is not a form with a file."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidInput("Send a form (multipart/form-data) with the rows as 'file'.", param="file")
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("The form has no file named 'file'.", param="file")
        content = iter(lambda: file.file.read(CHUNK_BYTES), b"")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        yield UploadedForm(file.filename or "file", content, fields)


def body(request: Request) -> Iterator[bytes]:
    """The raw body, of any content type. Read it in a worker thread of anyio."""
    stream: AsyncIterator[bytes] = request.stream()

    async def next_chunk() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(next_chunk)) is not None:
        yield chunk
