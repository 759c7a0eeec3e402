"""Calls of the client from asynchronous code, in threads."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from backend.client.asynchronous import AsyncClient
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Generator

SECONDS = 0.05


class Client:
    """Records what is called, in which order and in which threads."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.threads: set[int] = set()
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def stream(self, path: str, body: Any) -> Generator[str, None, None]:
        try:
            for word in body:
                self.threads.add(threading.get_ident())
                yield f"{path} {word}"
        finally:
            self.done.append("stream closed")


def call(client: Client, name: str, *, seconds: float = 0) -> str:
    client.threads.add(threading.get_ident())
    time.sleep(seconds)
    client.done.append(name)
    return name.upper()


def fail(_client: Client) -> None:
    raise Conflict("no")


def opened(client: Client) -> AsyncClient:
    return AsyncClient(client)  # type: ignore[arg-type]


async def test_calls_run_one_after_the_other_beside_the_event_loop() -> None:
    client, ticks = Client(), 0
    async with opened(client) as market:
        calls = asyncio.gather(*(market.run(call, name, seconds=SECONDS) for name in "abc"))  # type: ignore[arg-type]
        while not calls.done():
            ticks += 1
            await asyncio.sleep(SECONDS / 10)
        assert await calls == ["A", "B", "C"]
    assert client.done == ["a", "b", "c"]
    assert threading.get_ident() not in client.threads
    assert ticks > 3
    assert client.is_closed


async def test_an_error_of_a_call_is_raised() -> None:
    with pytest.raises(Conflict, match="no"):
        await opened(Client()).run(fail)  # type: ignore[arg-type]


async def test_a_call_that_has_begun_ends_before_it_is_cancelled() -> None:
    client = Client()
    market = opened(client)
    first = asyncio.ensure_future(market.run(call, "first", seconds=SECONDS))  # type: ignore[arg-type]
    await asyncio.sleep(SECONDS / 5)
    first.cancel()
    assert await market.run(call, "second") == "SECOND"  # type: ignore[arg-type]
    assert first.cancelled()
    assert client.done == ["first", "second"]


async def test_a_stream_is_read_beside_the_event_loop_and_closed() -> None:
    client = Client()
    market = opened(client)
    assert [event async for event in market.stream("said", ["a", "b"])] == ["said a", "said b"]
    events = market.stream("said", ["a", "b"])
    assert await anext(events) == "said a"
    await events.aclose()  # type: ignore[attr-defined]
    assert client.done == ["stream closed", "stream closed"]
    assert threading.get_ident() not in client.threads
