"""Ports of loopback, and servers there that refuse browsers' cross-origin requests and other hosts."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


def listen(port: int = 0) -> socket.socket:
    """Listening socket for `uvicorn.Server.run(sockets=[...])`; port 0 selects a free port.

    TCP_NODELAY is set because asyncio leaves Nagle's algorithm on for sockets passed to it, which costs 40 ms
    a call. Connections inherit the option from the listener.
    """
    listener = socket.create_server(("127.0.0.1", port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def free_port() -> int:
    """An unused port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server can listen on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class LocalCallersOnly:
    """ASGI middleware that refuses requests with an `Origin` header, which browsers send, and requests whose
    `Host` is not loopback: a web page can resolve its own domain to this machine (DNS rebinding).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_local(scope):
            await PlainTextResponse("403 - Forbidden", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_local(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    client = scope.get("client")
    host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
    return "origin" not in headers and client is not None and _is_loopback(client[0]) and _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
