"""`Idempotency-Key` on every POST of a router: run once, answered alike from then on."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from backend.api.completions import CompletionStream
from backend.api.deps import (
    Caller,
    asks_for,
    bearer,
    get_admitted,
    get_answerable,
    get_caller,
    get_reader,
    get_services,
    get_wallet,
)
from backend.api.services import Services
from backend.domain.errors import DomainError, InvalidInput
from backend.domain.idempotency import IdempotentRequest, StoredResponse
from backend.domain.ids import Hash32
from backend.services.accounts.idempotency import HEADER

F = TypeVar("F", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Check = Callable[[Caller], Caller]

log = logging.getLogger(__name__)

_KEY = re.compile(r'"?([!#-\[\]-~]{1,255})"?')
"""Visible ASCII but quotes and backslashes; in quotes, as the draft has it, or bare, as most clients do."""
CHECKS: tuple[Check, ...] = (get_wallet, get_answerable, get_reader)
REPLAYED = {"idempotency-replayed": "true"}
EFFECTLESS = (DomainError, HTTPException, RequestValidationError, UnicodeEncodeError)
"""What is raised before anything was charged or written."""


def keeps_no_answer(endpoint: F) -> F:
    """Marks an endpoint whose answer must not be kept, or whose body is too large to be compared."""
    endpoint.keeps_no_answer = True  # type: ignore[attr-defined]
    return endpoint


class IdempotentRoute(APIRoute):
    """`route_class` of routers. A request under a key goes on to its end though its client leaves."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        if "POST" not in (self.methods or ()):
            return handle
        is_taken = takes_key(self)
        checks = [check for check in CHECKS if asks_for(self.dependant, check)]

        async def handle_once(request: Request) -> Response:
            text = request.headers.get(HEADER)
            if text is None:
                return await handle(request)
            if not is_taken:
                raise InvalidInput(f"{HEADER} is not taken here: the answer cannot be kept.", param=HEADER)
            return await _answered_once(request, text, handle, checks)

        return handle_once


def takes_key(route: APIRoute) -> bool:
    """Whether requests of this route may come under a key."""
    return "POST" in (route.methods or ()) and not getattr(route.endpoint, "keeps_no_answer", False)


async def _answered_once(request: Request, text: str, handle: Handler, checks: Sequence[Check]) -> Response:
    match = _KEY.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"{HEADER} has 1 to 255 visible ASCII characters but quotes and backslashes.", param=HEADER
        )
    services, credentials = get_services(request), await bearer(request)
    caller = await get_admitted(request, await run_in_threadpool(get_caller, services, credentials))
    for check in checks:
        check(caller)  # kept answers too are only for those who could have asked
    body = await request.body()
    keyed = IdempotentRequest(caller.account, match[1], _fingerprint(request, body, caller))
    started = await run_in_threadpool(services.idempotency.start, keyed)
    if isinstance(started, StoredResponse):
        return Response(started.body, started.status, REPLAYED, started.media_type)
    run = _Run(services, keyed, started)
    return await run.response(handle, Request(request.scope, _whole(body)))


class _Run:
    """The one request that runs under its key."""

    def __init__(self, services: Services, keyed: IdempotentRequest, claim: str) -> None:
        self._services = services
        self._keyed = keyed
        self._claim = claim

    async def response(self, handle: Handler, request: Request) -> Response:
        try:
            response = await handle(request)
        except EFFECTLESS:
            await self._end(None)
            raise
        if isinstance(response, CompletionStream):
            return self._teed(request, response)
        is_done = response.status_code < 300
        await self._end(_kept(response, bytes(response.body)) if is_done else None)
        return response

    def _teed(self, request: Request, stream: CompletionStream) -> Response:
        """A copy for the client; another is kept, if the stream came to its end."""
        chunks: asyncio.Queue[str | None] = asyncio.Queue()

        async def record() -> None:
            texts: list[str] = []
            try:
                async for text in stream.completion.events():
                    texts.append(text)
                    chunks.put_nowait(text)
                is_whole = stream.completion.is_whole
                await self._end(_kept(stream, "".join(texts).encode()) if is_whole else None)
            except Exception:  # whether it was charged is not known: the claim stays
                log.exception("defect in a stream under an idempotency key")
            finally:
                chunks.put_nowait(None)

        async def copy() -> AsyncIterator[str]:
            while (text := await chunks.get()) is not None:
                yield text

        recordings: set[asyncio.Task[None]] = request.app.state.recordings
        task = asyncio.create_task(record())
        recordings.add(task)
        task.add_done_callback(recordings.discard)
        return StreamingResponse(copy(), stream.status_code, dict(stream.headers))

    async def _end(self, answer: StoredResponse | None) -> None:
        idempotency = self._services.idempotency
        if answer is None:
            await run_in_threadpool(idempotency.forget, self._keyed, self._claim)
        else:
            await run_in_threadpool(idempotency.keep, self._keyed, self._claim, answer)


def _kept(response: Response, body: bytes) -> StoredResponse:
    return StoredResponse(response.status_code, response.headers.get("content-type", ""), body)


def _fingerprint(request: Request, body: bytes, caller: Caller) -> Hash32:
    """A key that may not ask every model has its own answers repeated alone."""
    own = "" if caller.models is None else f"{caller.key_id} "
    what = f"{own}{request.method} {request.url.path}?{request.url.query}\n".encode()
    return Hash32("0x" + hashlib.sha256(what + body).hexdigest())


def _whole(body: bytes) -> Callable[[], Coroutine[Any, Any, Message]]:
    """An ASGI channel from a client that never leaves."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if rest:
            return rest.pop()
        await asyncio.Event().wait()
        raise AssertionError

    return receive
