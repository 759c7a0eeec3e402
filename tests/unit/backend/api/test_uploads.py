"""Uploads hold one of few slots, so a client must send."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import to_thread
from starlette.requests import Request

from backend.api import uploads
from backend.api.uploads import UploadStalled, body, open_upload, open_upload_form

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows"\r\n\r\nrows\r\n--x--\r\n'


def request_of(chunks: Iterator[bytes], pause: float, content_type: str) -> Request:
    """A request whose client pauses before each chunk, and after the last one for ever."""

    async def receive() -> dict[str, Any]:
        await anyio.sleep(pause)
        if (chunk := next(chunks, None)) is None:
            await anyio.sleep(60)
        return {"type": "http.request", "body": chunk, "more_body": True}

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def read_raw(request: Request) -> list[bytes]:
    return await to_thread.run_sync(lambda: list(body(request)))


async def read_file(request: Request) -> list[bytes]:
    async with open_upload(request) as stream:
        return list(stream)


async def read_form(request: Request) -> list[bytes]:
    async with open_upload_form(request) as form:
        return list(form.content)


@pytest.mark.parametrize("read", [read_raw, read_file, read_form])
@pytest.mark.parametrize("is_trickling", [False, True])
def test_an_upload_ends_when_nothing_or_little_arrives(
    read: Any, monkeypatch: pytest.MonkeyPatch, *, is_trickling: bool
) -> None:
    monkeypatch.setattr(uploads, "STALL_SECONDS", 0.3)
    content_type = "text/plain" if read is read_raw else "multipart/form-data; boundary=x"
    chunks = (
        (FORM[place : place + 1] for place in range(len(FORM) - 2)) if is_trickling else iter([FORM[:50]])
    )
    request = request_of(chunks, 0.1 if is_trickling else 0, content_type)
    with pytest.raises(UploadStalled, match="upload the file again"):
        anyio.run(partial(read, request))
