"""Local OpenAI endpoint that pays the gateway with vouchers; its clients need neither API key nor wallet.

A voucher is signed only after the gateway answers 402 to a request for an answer, and never for more than one
step beyond the amount charged so far, for each such request that is running. That step is the most that a
gateway can take without answering. What was charged is the gateway's word, so vouchers are also limited to
one step for each request that was answered since the start or is running. Lists of models are never paid for.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backend.cli.output import in_utc
from backend.client.api import LOOPBACK
from backend.client.errors import UNSIGNED, reading_answer
from backend.client.payments import asked_voucher
from backend.client.responses import error_body, parse_json
from backend.domain.errors import DomainError, PaymentRequired, Unavailable
from backend.domain.money import AMOUNT, in_dollars
from backend.loopback import LocalCallersOnly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from backend.client.signing import Wallet
    from backend.domain.ids import ChannelId

UNAUTHORISED = "insufficient_authorisation"
MAX_TRIES = 4
"""Tries of one request: concurrent requests may spend the voucher that was signed for it."""
ANSWER_SECONDS = 600
FORWARDED_HEADERS = frozenset(
    {"accept", "accept-encoding", "content-type", "idempotency-key", "x-request-id"}
)
DROPPED_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "server", "date"})
"""Headers of the gateway's response that are not forwarded."""


class ProxyCapReached(PaymentRequired):
    """The request may cost more than this proxy is allowed to spend."""


class ProxySessionExpired(PaymentRequired):
    """The session key with which this proxy signs has expired."""


@dataclass(frozen=True, slots=True)
class VoucherSigner:
    """Signs vouchers for one channel, within limits in micro-units."""

    channel_id: ChannelId
    session: Wallet
    """Of the session key."""
    start: int
    """Cumulative amount that was charged when the session key was granted."""
    max_cumulative: int
    """Highest cumulative amount that a voucher may state."""
    step: int
    """Most that a voucher may exceed the amount charged so far, for each request in flight."""
    expiry: int
    """Unix seconds from which the session key signs nothing."""


class PaymentProxy:
    def __init__(self, api_url: str, api_key: str, signer: VoucherSigner) -> None:
        self._signer = signer
        self._http = httpx.AsyncClient(
            base_url=api_url,
            # A caller that names no encoding gets none: the response's bytes are forwarded as they are.
            headers={"authorization": f"Bearer {api_key}", "accept-encoding": "identity"},
            timeout=httpx.Timeout(30, read=ANSWER_SECONDS),
            # A proxy from the environment cannot reach this machine's loopback.
            trust_env=urlsplit(api_url).hostname not in LOOPBACK,
        )
        self._signing = asyncio.Lock()
        self._num_running = self._num_answered = 0
        """Requests for answers."""

    def app(self) -> ASGIApp:
        """Return the ASGI application, for a server on loopback."""
        routes = [
            Route("/v1/models", self._forward, methods=["GET"]),
            Route("/v1/models/{model:path}", self._forward, methods=["GET"]),
            Route("/v1/chat/completions", self._forward, methods=["POST"]),
            Route("/v1/completions", self._forward, methods=["POST"]),
            Route("/v1/responses", self._forward, methods=["POST"]),
        ]
        return LocalCallersOnly(Starlette(routes=routes, lifespan=self._lifespan))

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        await self._http.aclose()

    async def _forward(self, request: Request) -> Response:
        return _ForwardedResponse(self, request)

    async def serve(self, request: Request, receive: Receive, send: Send) -> None:
        """Forward one request and its response; a request for an answer counts as running until the last byte
        is sent.
        """
        body = await request.body()
        is_paid = _is_paid(request)
        self._num_running += is_paid
        upstream = None
        try:
            try:
                upstream = await self._request_paid(request, body)
                response = _to_response(upstream)
            except DomainError as error:
                response = _error_response(error)
            await response(request.scope, receive, send)  # returns early if the client disconnects
        finally:
            self._num_running -= is_paid
            if upstream is not None:
                self._num_answered += is_paid and upstream.is_success
                await upstream.aclose()

    async def _request_paid(self, request: Request, body: bytes) -> httpx.Response:
        """Send the request to the gateway; sign a voucher and retry while the gateway asks for one."""
        headers = {name: value for name, value in request.headers.items() if name in FORWARDED_HEADERS}
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        for _ in range(MAX_TRIES):
            upstream_request = self._http.build_request(request.method, path, headers=headers, content=body)
            try:
                response = await self._http.send(upstream_request, stream=True)
                if response.status_code != httpx.codes.PAYMENT_REQUIRED or not _is_paid(request):
                    return response
                await response.aread()
            except httpx.RequestError as error:
                raise Unavailable(f"The gateway is not reachable: {error}") from error
            refusal = error_body(response) or {}
            if refusal.get("code") != UNAUTHORISED:
                return response
            with reading_answer():
                required = AMOUNT.read(refusal["details"]["required"])
            await self._authorise(required)
        return response

    async def _authorise(self, required: int) -> None:
        """Post a voucher that covers `required` micro-units beyond all that is charged and reserved now."""
        signer, path = self._signer, f"/v1/channels/{self._signer.channel_id}"
        async with self._signing:
            channel = await self._call("GET", path)
            with reading_answer(UNSIGNED):
                charged, reserved, cap = (
                    AMOUNT.read(channel[name]) for name in ("charged", "reserved", "cap")
                )
            if cap >= charged + reserved + required:
                return  # a voucher for a concurrent request covers this one too
            if time.time() >= signer.expiry:
                raise ProxySessionExpired(
                    f"The session key of this proxy expired at {in_utc(signer.expiry)}, so that it signs no "
                    "vouchers. Start `loraledger proxy` again; the wallet then grants another key."
                )
            cumulative = min(
                charged + signer.step * self._num_running,
                signer.start + signer.step * (self._num_answered + self._num_running),
                signer.max_cumulative,
            )
            if cumulative < charged + reserved + required:
                left = max(signer.max_cumulative - charged, 0)
                raise ProxyCapReached(
                    f"The request may cost {in_dollars(required)}; the proxy signs at most "
                    f"{in_dollars(signer.step)} in advance for each answer, and {in_dollars(left)} in all. "
                    "Start it with a higher --step or --cap, or again if other programs use the channel.",
                    details={
                        "required": AMOUNT.render(required),
                        "step": AMOUNT.render(signer.step),
                        "left": AMOUNT.render(left),
                    },
                )
            signature = signer.session.sign(asked_voucher(signer.channel_id, cumulative))
            voucher = {"max_cumulative": str(cumulative), "signature": signature}
            await self._call("POST", f"{path}/vouchers", voucher)

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.RequestError as error:
            raise Unavailable(f"The gateway is not reachable: {error}") from error
        if not response.is_success:
            message = (error_body(response) or {}).get("message", "")
            raise Unavailable(f"The gateway refuses {method} {path}: {message}")
        return parse_json(response)


class _ForwardedResponse(Response):
    """Requests the upstream response when it is sent, so that its connection is always released."""

    def __init__(self, proxy: PaymentProxy, request: Request) -> None:
        super().__init__()
        self._proxy, self._request = proxy, request

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await self._proxy.serve(self._request, receive, send)


def _is_paid(request: Request) -> bool:
    return request.method == "POST"


def _to_response(upstream: httpx.Response) -> Response:
    """Forward a response that was already read as a whole, any other as a stream of its raw bytes."""
    status = upstream.status_code
    if upstream.is_stream_consumed:
        return Response(upstream.content, status, media_type=upstream.headers.get("content-type"))
    headers = {name: value for name, value in upstream.headers.items() if name not in DROPPED_HEADERS}
    return StreamingResponse(upstream.aiter_raw(), status, headers)


def _error_response(error: DomainError) -> Response:
    is_money = isinstance(error, PaymentRequired)
    body = {
        "message": error.message,
        "type": "payment_required" if is_money else "server_error",
        "param": None,
        "code": error.code,
        "details": error.details,
    }
    return JSONResponse({"error": body}, httpx.codes.PAYMENT_REQUIRED if is_money else 503)
