"""The client for asynchronous programs.

    async with AsyncClient(ApiClient("https://market.example", wallet)) as market:
        await market.run(ApiClient.sign_in)
        await market.run(deposit, 5_000_000)
        models = await market.run(ApiClient.get, "/v1/models")

It has no methods of its own: every function that takes an `ApiClient` first runs in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from backend.client.api import ApiClient

P = ParamSpec("P")
T = TypeVar("T")


class AsyncClient:
    """Runs calls of one `ApiClient` without blocking the event loop. The wallet's `approve` is called in the
    thread.
    """

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        async with self._lock:
            self._client.close()

    async def run(self, call: Callable[Concatenate[ApiClient, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `call(client, *args, **kwargs)`. Errors: those of the call.

        A call that has begun ends before a cancellation of its task takes effect: what it signed and sent
        cannot be taken back.
        """
        async with self._lock:
            return await _finish(asyncio.to_thread(call, self._client, *args, **kwargs))

    async def stream(self, path: str, body: Any) -> AsyncIterator[Any]:
        """As `ApiClient.stream`. Other calls wait until it has ended."""
        async with self._lock:
            events, ended = self._client.stream(path, body), object()
            try:
                while (event := await _finish(asyncio.to_thread(next, events, ended))) is not ended:
                    yield event
            finally:
                await _finish(asyncio.to_thread(events.close))


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Await a thread's work to its end, also if the task is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
