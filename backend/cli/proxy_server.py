"""A local OpenAI endpoint that pays by vouchers of its own: whoever asks here needs no key and no wallet.

Nothing is signed before the gateway says 402 for want of it, and then no more than a step beyond what was
charged: that is what a gateway which takes a voucher and does not answer gets away with.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backend.domain.eip712 import payload
from backend.domain.errors import PaymentRequired, Unavailable
from backend.domain.hashing import VOUCHER_TYPE
from backend.loopback import LocalCallersOnly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

NEEDS_VOUCHER = "insufficient_authorisation"
MAX_TRIES = 4
"""Of one request: others may use up in between what was signed for it."""
ANSWER_SECONDS = 600
PASSED_ON = frozenset({"accept", "accept-encoding", "content-type", "idempotency-key", "x-request-id"})
NOT_PASSED_BACK = frozenset({"connection", "keep-alive", "transfer-encoding", "server", "date"})


class ProxyCapReached(PaymentRequired):
    """What this proxy may spend does not cover the request."""


@dataclass(frozen=True, slots=True)
class Purse:
    """What the proxy may sign. `domain`: the vault's, of EIP-712; amounts in micro-units along the line."""

    channel_id: str
    domain: Mapping[str, Any]
    sign: Callable[[dict[str, Any]], str]
    """A typed message, by the session key."""
    end: int
    """Where the line may be collected at most."""
    step: int
    """How far a voucher may go beyond what is charged, for each answer under way."""


class Proxy:
    def __init__(self, api_url: str, api_key: str, purse: Purse) -> None:
        self._purse = purse
        self._http = httpx.AsyncClient(
            base_url=api_url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(30, read=ANSWER_SECONDS),
        )
        self._signing = asyncio.Lock()
        self._num_running = 0

    def app(self) -> ASGIApp:
        """For a server on loopback."""
        routes = [
            Route("/v1/models", self._pass, methods=["GET"]),
            Route("/v1/models/{model:path}", self._pass, methods=["GET"]),
            Route("/v1/chat/completions", self._pass, methods=["POST"]),
            Route("/v1/completions", self._pass, methods=["POST"]),
        ]
        return LocalCallersOnly(Starlette(routes=routes, lifespan=self._lifespan))

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        await self._http.aclose()

    async def _pass(self, request: Request) -> Response:
        return _Passed(self, request)

    async def serve(self, request: Request, receive: Receive, send: Send) -> None:
        """One request from its first byte to the last of its answer, while it counts as running."""
        self._num_running += 1
        answer = None
        try:
            answer = await self._answered(request, await request.body())
            response = _passed_on(answer)
        except (PaymentRequired, Unavailable) as error:
            response = _refusal(error)
        try:
            await response(request.scope, receive, send)  # ends early where the client hangs up
        finally:
            self._num_running -= 1
            if answer is not None:
                await answer.aclose()

    async def _answered(self, request: Request, body: bytes) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name in PASSED_ON}
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        for _ in range(MAX_TRIES):
            asked = self._http.build_request(request.method, path, headers=headers, content=body)
            try:
                answer = await self._http.send(asked, stream=True)
                if answer.status_code != httpx.codes.PAYMENT_REQUIRED:
                    return answer
                await answer.aread()
            except httpx.TransportError as error:
                raise Unavailable(f"The gateway is not reachable: {error}") from error
            found = _error_of(answer)
            if found.get("code") != NEEDS_VOUCHER:
                return answer
            await self._sign(int(found["details"]["required"]))
        return answer

    async def _sign(self, required: int) -> None:
        """A voucher that covers `required` more than all that is charged and reserved now."""
        purse, path = self._purse, f"/v1/channels/{self._purse.channel_id}"
        async with self._signing:
            channel = await self._ask("GET", path)
            charged, reserved = int(channel["charged"]), int(channel["reserved"])
            if int(channel["cap"]) >= charged + reserved + required:
                return  # signed for somebody else meanwhile
            end = min(charged + purse.step * max(self._num_running, 1), purse.end)
            if end < charged + reserved + required:
                left = max(purse.end - charged, 0)
                raise ProxyCapReached(
                    f"The request may cost {required} micro-units; the proxy signs up to {purse.step} ahead "
                    f"for each answer, and {left} in all.",
                    details={"required": str(required), "step": str(purse.step), "left": str(left)},
                )
            message = {"channelId": purse.channel_id, "from": "0", "maxCumulative": str(end)}
            signature = purse.sign(payload(purse.domain, VOUCHER_TYPE, message))
            voucher = {"max_cumulative": str(end), "signature": signature}
            await self._ask("POST", f"{path}/vouchers", voucher)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise Unavailable(f"The gateway is not reachable: {error}") from error
        if not answer.is_success:
            raise Unavailable(f"The gateway refuses {method} {path}: {_error_of(answer).get('message', '')}")
        found: dict[str, Any] = answer.json()
        return found


class _Passed(Response):
    """An answer that is asked for when it is sent, so that what it holds is let go however it ends."""

    def __init__(self, proxy: Proxy, request: Request) -> None:
        super().__init__()
        self._proxy, self._request = proxy, request

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await self._proxy.serve(self._request, receive, send)


def _passed_on(answer: httpx.Response) -> Response:
    """What was read is sent whole, anything else as it comes, byte by byte the gateway's."""
    if answer.is_stream_consumed:
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
    kept = {name: value for name, value in answer.headers.items() if name not in NOT_PASSED_BACK}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, kept)


def _error_of(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(error: PaymentRequired | Unavailable) -> Response:
    is_money = isinstance(error, PaymentRequired)
    body = {
        "message": error.message,
        "type": "payment_required" if is_money else "server_error",
        "param": None,
        "code": error.code,
        "details": error.details,
    }
    return JSONResponse({"error": body}, httpx.codes.PAYMENT_REQUIRED if is_money else 503)
