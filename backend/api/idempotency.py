"""`Idempotency-Key` on the POST endpoints of a router: runs a request once and replays its response.

Bodies are counted by the rate limits before they are parsed, because parsing holds up all other requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends
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
    bearer,
    depends_on,
    get_account_caller,
    get_admitted,
    get_answers_caller,
    get_services,
    get_wallet,
    limit_by_address,
    read_body,
)
from backend.api.services import Services
from backend.domain.errors import DomainError, InvalidInput
from backend.domain.idempotency import HEADER, IdempotentRequest, StoredResponse
from backend.domain.ids import Hash32

F = TypeVar("F", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Check = Callable[[Caller], Caller]

log = logging.getLogger(__name__)

_KEY = re.compile(r'"?([!#-\[\]-~]{1,255})"?')
"""Visible ASCII without quotes and backslashes; quoted, as in the IETF draft, or bare, as most clients send
it.
"""
CHECKS: tuple[Check, ...] = (get_wallet, get_answers_caller, get_account_caller)
REPLAYED = {"idempotency-replayed": "true"}
UNCHARGED_ERRORS = (DomainError, HTTPException, RequestValidationError, UnicodeEncodeError)
"""Errors raised only before anything is charged or written: they release the key. Others keep the claim."""


def not_idempotent(endpoint: F) -> F:
    """Mark an endpoint whose response must not be stored, or whose body is too large to compare."""
    endpoint.not_idempotent = True  # type: ignore[attr-defined]
    return endpoint


def takes_key(endpoint: F) -> F:
    """Mark an endpoint that has its effect once for each key by itself: it gets the key by `KeyDep`, and its
    responses are not stored.
    """
    endpoint.takes_key = True  # type: ignore[attr-defined]
    return endpoint


def get_key(request: Request) -> str | None:
    return getattr(request.state, "idempotency_key", None)


KeyDep = Annotated[str | None, Depends(get_key)]


class IdempotentRoute(APIRoute):
    """Route class that honours `Idempotency-Key` on POST, and admits requests with a JSON body before FastAPI
    parses it.

    A request with a key runs to completion even if its client disconnects.
    """

    def get_route_handler(self) -> Handler:
        handle = self._admitting(super().get_route_handler())
        if "POST" not in (self.methods or ()):
            return handle
        is_supported = accepts_key(self)
        checks = [check for check in CHECKS if depends_on(self.dependant, check)]

        async def handle_once(request: Request) -> Response:
            text = request.headers.get(HEADER)
            if text is None:
                return await handle(request)
            if not is_supported:
                raise InvalidInput(f"This endpoint does not support {HEADER}.", param=HEADER)
            key = _read_key(text)
            if getattr(self.endpoint, "takes_key", False):
                request.state.idempotency_key = key
                return await handle(request)
            return await _respond_once(request, key, handle, checks)

        return handle_once

    def _admitting(self, handle: Handler) -> Handler:
        if self.body_field is None:
            return handle
        needs_caller = depends_on(self.dependant, get_admitted)

        async def admit(request: Request) -> Response:
            await read_body(request)
            if needs_caller:
                await get_admitted(request, get_services(request), await bearer(request))
            else:
                await limit_by_address(request)
            return await handle(request)

        return admit


def accepts_key(route: APIRoute) -> bool:
    """Whether requests of this route may carry an `Idempotency-Key`."""
    return "POST" in (route.methods or ()) and not getattr(route.endpoint, "not_idempotent", False)


def _read_key(text: str) -> str:
    match = _KEY.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"{HEADER} must be 1 to 255 visible ASCII characters without quotes and backslashes.",
            param=HEADER,
        )
    return match[1]


async def _respond_once(request: Request, key: str, handle: Handler, checks: Sequence[Check]) -> Response:
    services, credentials, body = get_services(request), await bearer(request), await read_body(request)
    caller = await get_admitted(request, services, credentials)
    for check in checks:
        check(caller)  # a replay needs the same permissions
    keyed = IdempotentRequest(caller.account, key, _fingerprint(request, body, caller))
    started = await run_in_threadpool(services.idempotency.start, keyed)
    if isinstance(started, StoredResponse):
        return Response(started.body, started.status, REPLAYED, started.media_type)
    run = _Run(services, keyed, started)
    return await run.response(handle, Request(request.scope, _receive_body(body)))


class _Run:
    """One execution of a request that holds the claim on its key."""

    def __init__(self, services: Services, keyed: IdempotentRequest, claim: str) -> None:
        self._services = services
        self._keyed = keyed
        self._claim = claim

    async def response(self, handle: Handler, request: Request) -> Response:
        try:
            response = await handle(request)
        except UNCHARGED_ERRORS:
            await self._end(None)
            raise
        if isinstance(response, CompletionStream):
            return self._tee(request, response)
        is_done = response.status_code < 300
        await self._end(_kept(response, bytes(response.body)) if is_done else None)
        return response

    def _tee(self, request: Request, stream: CompletionStream) -> Response:
        """Send the stream to the client, and store it once it is complete."""
        chunks: asyncio.Queue[str | None] = asyncio.Queue()

        async def record() -> None:
            texts: list[str] = []
            try:
                async for text in stream.completion.events():
                    texts.append(text)
                    chunks.put_nowait(text)
                is_complete = stream.completion.is_complete
                await self._end(_kept(stream, "".join(texts).encode()) if is_complete else None)
            except Exception:  # unknown whether it was charged: the claim stays
                log.exception("error in a stream with an idempotency key")
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
        """Store the response, or release the key. Never fails: what the request did is done, and its error is
        its own. Without the database the claim stays, so that nothing is done twice.
        """
        idempotency = self._services.idempotency
        try:
            if answer is None:
                await run_in_threadpool(idempotency.release, self._keyed, self._claim)
            else:
                await run_in_threadpool(idempotency.store, self._keyed, self._claim, answer)
        except Exception:
            log.exception("the outcome of a request with an idempotency key is not stored")


def _kept(response: Response, body: bytes) -> StoredResponse:
    return StoredResponse(response.status_code, response.headers.get("content-type", ""), body)


def _fingerprint(request: Request, body: bytes, caller: Caller) -> Hash32:
    """Hash of the request.

    For an API key restricted to some models it includes the key's id: no other key gets its responses.
    """
    prefix = "" if caller.models is None else f"{caller.key_id} "
    what = f"{prefix}{request.method} {request.url.path}?{request.url.query}\n".encode()
    return Hash32("0x" + hashlib.sha256(what + body).hexdigest())


def _receive_body(body: bytes) -> Callable[[], Coroutine[Any, Any, Message]]:
    """An ASGI `receive` of a client that never disconnects."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if rest:
            return rest.pop()
        await asyncio.Event().wait()
        raise AssertionError

    return receive
