"""A body holds memory, and an upload one of few slots, so a client must send."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend.api import middleware
from backend.api.middleware import BodyLimit
from backend.api.uploads import body, open_upload, open_upload_form
from backend.disk.space import DiskSpace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows"\r\n\r\nrows\r\n--x--\r\n'

SPACE = DiskSpace(Path(gettempdir()))


def paused(chunks: Iterator[bytes], pause: float) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A client that pauses before each chunk, and after the last one for ever."""

    async def receive() -> dict[str, Any]:
        await anyio.sleep(pause)
        if (chunk := next(chunks, None)) is None:
            await anyio.sleep(60)
        return {"type": "http.request", "body": chunk, "more_body": True}

    return receive


async def limited(receive: Any, content_type: str, read: Callable[[Request], Awaitable[object]]) -> None:
    """`read` gets the request as an endpoint does."""

    async def app(scope: Any, receive_limited: Any, _send: Any) -> None:
        await read(Request(scope, receive_limited))

    headers = [(b"content-type", content_type.encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await BodyLimit(app, lambda *_: 1000)(scope, receive, Any)


async def read_json(request: Request) -> None:
    await request.json()


async def read_raw(request: Request) -> None:
    await to_thread.run_sync(lambda: list(body(request)))


async def read_file(request: Request) -> None:
    async with open_upload(request, SPACE) as stream:
        list(stream)


async def read_form(request: Request) -> None:
    async with open_upload_form(request, SPACE) as form:
        list(form.content)


@pytest.mark.parametrize("read", [read_json, read_raw, read_file, read_form])
@pytest.mark.parametrize("is_trickling", [False, True])
def test_a_body_ends_when_nothing_or_little_arrives(
    read: Any, monkeypatch: pytest.MonkeyPatch, *, is_trickling: bool
) -> None:
    monkeypatch.setattr(middleware, "STALL_SECONDS", 0.3)
    content_type = "multipart/form-data; boundary=x" if read in {read_file, read_form} else "application/json"
    chunks = (
        (FORM[place : place + 1] for place in range(len(FORM) - 2)) if is_trickling else iter([FORM[:50]])
    )
    receive = paused(chunks, 0.1 if is_trickling else 0)
    with pytest.raises(HTTPException, match="send it again") as caught:
        anyio.run(partial(limited, receive, content_type, read))
    assert caught.value.status_code == 408


def test_a_client_that_has_sent_its_body_may_wait_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "STALL_SECONDS", 0.05)
    messages = [
        {"type": "http.request", "body": b"{}", "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        if len(messages) == 1:
            await anyio.sleep(0.2)
        return messages.pop(0)

    async def read(request: Request) -> None:
        assert await request.json() == {}
        assert (await request.receive())["type"] == "http.disconnect"

    anyio.run(partial(limited, receive, "application/json", read))


def test_a_client_that_sends_no_body_may_hang_up() -> None:
    """A response that is streamed ends then."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def read(request: Request) -> None:
        assert (await request.receive())["type"] == "http.disconnect"

    anyio.run(partial(limited, receive, "application/json", read))
