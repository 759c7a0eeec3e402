"""HTTP to addresses that a stranger chose, so that none of them leads where only we can reach.

The host is looked up once, every address that it has is checked, and the connection goes to one of those:
what a second look-up would say does not matter. Redirects are not followed, the environment's proxies not
used, bodies not decompressed. One deadline covers everything.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpcore2

from backend.outbound.addresses import is_public
from backend.ports.outbound import AddressRefused, AnsweredOtherwise, Unreachable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_URL = 2048
MAX_ADDRESSES = 4
"""That are tried of one host."""
RESOLVERS = 4
_PLAIN = re.compile(r"[\x21-\x7e]+")

log = logging.getLogger(__name__)


def look_up(host: str, port: int) -> list[str]:
    """All addresses of the host, in the resolver's order. Errors: `OSError`, `UnicodeError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class OutboundClient:
    """Implements `backend.ports.outbound.OutboundHttp`; for any number of threads."""

    def __init__(
        self,
        *,
        allows_private: bool = False,
        resolve: Callable[[str, int], Sequence[str]] = look_up,
        network: httpcore2.NetworkBackend | None = None,
    ) -> None:
        """`allows_private`: for local networks only. `network` connects to addresses that were checked."""
        if allows_private:
            log.warning("endpoints of other operators may lie in private networks, this machine included")
        self._allows_private = allows_private
        self._resolve = resolve
        self._network = network or httpcore2.SyncBackend()
        self._resolvers = ThreadPoolExecutor(RESOLVERS, "look-up")  # the resolver itself knows no deadline

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpcore2.default_ssl_context()

    def get(self, url: str, *, accept: str, max_bytes: int, seconds: float) -> Iterator[bytes]:
        deadline = time.monotonic() + seconds
        checked = check_url(url)
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("host", _host_header(checked)),
            ("accept", accept),
            ("accept-encoding", "identity"),
        ]
        try:
            with (
                httpcore2.ConnectionPool(
                    ssl_context=self._tls if checked.scheme == b"https" else None,
                    network_backend=_Guarded(self, deadline),
                ) as pool,
                pool.stream("GET", checked, headers=headers) as response,
            ):
                if response.status != HTTPStatus.OK:
                    text = f"{url} answers with status {response.status}."
                    raise AnsweredOtherwise(text, details={"status": response.status})
                received = 0
                for chunk in response.iter_stream():
                    received += len(chunk)
                    if received > max_bytes:
                        raise Unreachable(f"{url} sends more than {max_bytes} bytes.")
                    yield chunk
        except httpcore2.TimeoutException as error:
            raise Unreachable(f"{url} did not answer within {seconds:.0f} s.") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, ValueError) as error:
            raise Unreachable(f"{url} cannot be reached: {error}") from error

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """Where to connect. Errors: `AddressRefused`, `Unreachable`; `httpcore2.ConnectTimeout`."""
        try:
            found = self._resolvers.submit(self._resolve, host, port).result(timeout=max(seconds, 0))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"the look-up of {host}") from error
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"There is no host {host!r}: {error}") from error
        if not self._allows_private and not all(map(is_public, found)):
            raise AddressRefused(f"The host {host!r} leads into a private network: it is not called.")
        return list(found[:MAX_ADDRESSES])

    def connect(self, address: str, port: int, seconds: float, options: Any) -> httpcore2.NetworkStream:
        return self._network.connect_tcp(address, port, timeout=seconds, socket_options=options)


def check_url(url: str) -> httpcore2.URL:
    """Parsed once, for everything that follows. Errors: `AddressRefused`."""
    if len(url) > MAX_URL or not _PLAIN.fullmatch(url) or "\\" in url:
        raise AddressRefused(f"{url[:100]!r} is no plain URL of at most {MAX_URL} characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused(f"{url!r} is no URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or port == 0:
        raise AddressRefused(f"{url!r} is not http(s)://host, without a user's name.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore2.URL(scheme=parts.scheme, host=parts.hostname, port=port, target=target)


def _host_header(url: httpcore2.URL) -> bytes:
    host = b"[%b]" % url.host if b":" in url.host else url.host
    return host if url.port is None else b"%b:%d" % (host, url.port)


class _Guarded(httpcore2.NetworkBackend):
    """Connects to what was checked, and lets nothing last beyond the deadline."""

    def __init__(self, client: OutboundClient, deadline: float) -> None:
        self._client = client
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline is tighter
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = self._client.addresses(host, port, _left(self._deadline))
        for number, address in enumerate(addresses, start=1):
            try:
                seconds = _left(self._deadline) / (len(addresses) - number + 1)
                stream = self._client.connect(address, port, seconds, socket_options)
                return _Bounded(stream, self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise Unreachable(f"The host {host!r} has no address.")


class _Bounded(httpcore2.NetworkStream):
    """A connection on which every step has what is left of the deadline, however small the steps."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: Any, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _left(self._deadline))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _Bounded(stream, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    """Seconds. Errors: `httpcore2.ReadTimeout` once there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the deadline has passed")
    return left
