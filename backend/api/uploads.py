"""Streams upload bodies to synchronous services as iterators; they are too large for memory."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING

import anyio.from_thread
from anyio import CapacityLimiter
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from backend.disk.space import raising_disk_full
from backend.domain.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from starlette.requests import Request

    from backend.disk.space import DiskSpace

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
async def open_upload(request: Request, space: DiskSpace) -> AsyncIterator[Iterator[bytes]]:
    """The body, or the file of a form, which waits in `space`. Read the iterator in a worker thread of anyio.
    Errors: `InvalidInput`, `DiskFull`.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield body(request)
        return
    async with _read_form(request, space, max_fields=0) as form:
        yield form.content


@dataclass(frozen=True, slots=True)
class UploadedForm:
    filename: str
    content: Iterator[bytes]
    """Content of the field `file`. Read it in a worker thread."""
    fields: dict[str, str]
    """All other fields."""


@asynccontextmanager
async def open_upload_form(request: Request, space: DiskSpace) -> AsyncIterator[UploadedForm]:
    """The form, whose file waits in `space`. Errors: `InvalidInput` if the body is not a form with a file,
    `DiskFull`.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidInput("Send a form (multipart/form-data) with the rows as 'file'.", param="file")
    async with _read_form(request, space, MAX_FIELDS) as form:
        yield form


@asynccontextmanager
async def _read_form(request: Request, space: DiskSpace, max_fields: int) -> AsyncIterator[UploadedForm]:
    try:
        with raising_disk_full("the disk is full; nothing was stored"):
            form = await _FormParser(request, space, max_fields).parse()
    except MultiPartException as error:
        raise InvalidInput(f"The form was refused: {error.message}") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("The form has no file named 'file'.", param="file")
        content = iter(lambda: file.file.read(CHUNK_BYTES), b"")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        yield UploadedForm(file.filename or "file", content, fields)
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Starlette's parser, which stores the file in `space` while there is some left: the temporary folder may
    be in memory.
    """

    def __init__(self, request: Request, space: DiskSpace, max_fields: int) -> None:
        super().__init__(request.headers, _limit(request, space), max_files=1, max_fields=max_fields)
        self._folder = space.folder

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if (file := self._current_part.file) is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._files_to_close_on_error.pop().close()
            spool = SpooledTemporaryFile(self.spool_max_size, dir=str(self._folder))  # noqa: SIM115 - by the form
            self._files_to_close_on_error.append(spool)
            file.file = spool  # type: ignore[assignment]  # as Starlette does


async def _limit(request: Request, space: DiskSpace) -> AsyncGenerator[bytes]:
    """The body, while there is space for it. Errors: `DiskFull`."""
    async for chunk in request.stream():
        space.require(len(chunk))
        yield chunk


def body(request: Request) -> Iterator[bytes]:
    """The raw body, of any content type. Read it in a worker thread of anyio."""
    stream: AsyncIterator[bytes] = request.stream()

    async def next_chunk() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(next_chunk)) is not None:
        yield chunk
