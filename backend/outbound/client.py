"""HTTP client for URLs that other parties publish or register, guarded against SSRF.

The host is resolved once, all its addresses are checked, and the connection goes to one of them, so DNS
rebinding has no effect. Redirects are not followed, proxies of the environment are not used, bodies are not
decompressed. One deadline covers the whole request.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpcore2

from backend.outbound.addresses import is_public
from backend.ports.outbound import AddressRefused, Posted, UnexpectedStatus, Unreachable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

MAX_URL = 2048
MAX_ADDRESSES = 4
"""Addresses of one host that are tried."""
NUM_RESOLVER_THREADS = 16
"""Started as needed: a look-up that hangs holds one, and the others go on."""
START_SECONDS = 10.0
"""After which a body must have arrived at its minimum rate."""
_PLAIN = re.compile(r"[\x21-\x7e]+")
_SECONDS = re.compile(rb"[0-9]{1,6}")

log = logging.getLogger(__name__)


def resolve_host(host: str, port: int) -> list[str]:
    """All addresses of the host, in the resolver's order. Errors: `OSError`, `UnicodeError`."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


class OutboundClient:
    """Implements `backend.ports.outbound.OutboundHttp`. Thread-safe."""

    def __init__(
        self,
        *,
        allows_private: bool = False,
        resolve: Callable[[str, int], Sequence[str]] = resolve_host,
        network: httpcore2.NetworkBackend | None = None,
    ) -> None:
        """`allows_private` is for local networks only. `network` connects to checked addresses."""
        if allows_private:
            log.warning("private addresses of other operators and of webhooks are allowed (local network)")
        self._allows_private = allows_private
        self._resolve = resolve
        self._network = network or httpcore2.SyncBackend()
        self._resolvers = ThreadPoolExecutor(NUM_RESOLVER_THREADS, "resolve")  # getaddrinfo has no timeout

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpcore2.default_ssl_context()

    def get(
        self, url: str, *, accept: str, max_bytes: int, seconds: float, min_rate: int = 0
    ) -> Iterator[bytes]:
        headers = {"accept": accept, "accept-encoding": "identity"}
        deadline = _Deadline(seconds, min_rate)
        with self._request("GET", url, parse_url(url), headers, deadline) as response:
            if response.status != HTTPStatus.OK:
                text = f"{url} answered with status {response.status}."
                raise UnexpectedStatus(text, details={"status": response.status})
            received = 0
            for chunk in response.iter_stream():
                received += len(chunk)
                if received > max_bytes:
                    raise Unreachable(f"{url} sent more than {max_bytes} bytes.")
                yielded_at = time.monotonic()
                yield chunk
                deadline.extend(received, time.monotonic() - yielded_at)

    def post(self, url: str, *, body: bytes, headers: Mapping[str, str], seconds: float) -> Posted:
        with self._request("POST", url, self._encrypted(url), headers, _Deadline(seconds), body) as response:
            waits = [value for name, value in response.headers if name.lower() == b"retry-after"]
            wait = waits[0] if waits else b""
            return Posted(response.status, int(wait) if _SECONDS.fullmatch(wait) else None)

    def check(self, url: str, *, seconds: float) -> None:
        parsed = self._encrypted(url)
        default = 443 if parsed.scheme == b"https" else 80
        try:
            self.addresses(parsed.host.decode(), parsed.port or default, seconds)
        except httpcore2.ConnectTimeout as error:
            host = parsed.host.decode()
            raise Unreachable(f"The host {host!r} was not resolved within {seconds:.0f} s.") from error

    def _encrypted(self, url: str) -> httpcore2.URL:
        """Parse a URL that data is sent to. Errors: `AddressRefused`."""
        parsed = parse_url(url)
        if parsed.scheme != b"https" and not self._allows_private:
            raise AddressRefused(f"{url!r} is not https: others on the way could read what is sent.")
        return parsed

    @contextmanager
    def _request(
        self,
        method: str,
        url: str,
        parsed: httpcore2.URL,
        headers: Mapping[str, str],
        deadline: _Deadline,
        body: bytes | None = None,
    ) -> Iterator[httpcore2.Response]:
        """The answer, whose body is not read yet. `parsed`: the parsed `url`."""
        sent: list[tuple[bytes | str, bytes | str]] = [("host", _host_header(parsed)), *headers.items()]
        if body is not None:
            sent.append(("content-length", str(len(body))))
        try:
            with (
                httpcore2.ConnectionPool(
                    ssl_context=self._tls if parsed.scheme == b"https" else None,
                    network_backend=_CheckedNetwork(self, deadline),
                ) as pool,
                pool.stream(method, parsed, headers=sent, content=body) as response,
            ):
                yield response
        except httpcore2.TimeoutException as error:
            raise Unreachable(f"{url} {deadline.missed}.") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, ValueError) as error:
            raise Unreachable(f"{url} cannot be reached: {error}") from error

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """Checked addresses. Errors: `AddressRefused`, `Unreachable`; `httpcore2.ConnectTimeout`."""
        answer = self._resolvers.submit(self._resolve, host, port)
        try:
            found = answer.result(timeout=max(seconds, 0))
        except TimeoutError as error:
            answer.cancel()  # or it would delay later look-ups, if it has not begun
            raise httpcore2.ConnectTimeout(f"resolving {host}") from error
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"The host {host!r} cannot be resolved: {error}") from error
        if not self._allows_private and not all(map(is_public, found)):
            raise AddressRefused(f"The host {host!r} has an address in a private network.")
        return list(found[:MAX_ADDRESSES])

    def connect(self, address: str, port: int, seconds: float, options: Any) -> httpcore2.NetworkStream:
        return self._network.connect_tcp(address, port, timeout=seconds, socket_options=options)


def parse_url(url: str) -> httpcore2.URL:
    """Parse once, so that the checks and the request see the same URL. Errors: `AddressRefused`."""
    if len(url) > MAX_URL or not _PLAIN.fullmatch(url) or "\\" in url:
        raise AddressRefused(f"{url[:100]!r} is not a plain ASCII URL of at most {MAX_URL} characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or port == 0:
        raise AddressRefused(f"{url!r} is not http(s)://host without user information.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore2.URL(scheme=parts.scheme, host=parts.hostname, port=port, target=target)


def _host_header(url: httpcore2.URL) -> bytes:
    host = b"[%b]" % url.host if b":" in url.host else url.host
    return host if url.port is None else b"%b:%d" % (host, url.port)


class _Deadline:
    """Of one request: `seconds` after its start; earlier if its body arrives at less than `min_rate` bytes
    per second.
    """

    def __init__(self, seconds: float, min_rate: int = 0) -> None:
        self._seconds, self._min_rate = seconds, min_rate
        self._began, self._received, self._idle = time.monotonic(), 0, 0.0

    def extend(self, received: int, idle: float) -> None:
        """So many bytes of the body have arrived. `idle`: seconds that the reader took for the last ones."""
        self._received = received
        self._idle += idle

    @property
    def remaining(self) -> float:
        """Seconds. Errors: `httpcore2.ReadTimeout` after the deadline."""
        seconds = self._began + self._limit - time.monotonic()
        if seconds <= 0:
            raise httpcore2.ReadTimeout("the deadline has passed")
        return seconds

    @property
    def missed(self) -> str:
        """What a server did that missed the deadline."""
        if self._received and self._limit < self._seconds:
            return f"sent less than {self._min_rate} bytes per second"
        return f"did not answer within {self._limit:.0f} s"

    @property
    def _limit(self) -> float:
        if not self._min_rate:
            return self._seconds
        return min(self._seconds, START_SECONDS + self._idle + self._received / self._min_rate)


class _CheckedNetwork(httpcore2.NetworkBackend):
    """Connects to checked addresses only, within the deadline."""

    def __init__(self, client: OutboundClient, deadline: _Deadline) -> None:
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
        addresses = self._client.addresses(host, port, self._deadline.remaining)
        for number, address in enumerate(addresses, start=1):
            try:
                seconds = self._deadline.remaining / (len(addresses) - number + 1)
                stream = self._client.connect(address, port, seconds, socket_options)
                return _DeadlineStream(stream, self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise Unreachable(f"The host {host!r} has no address.")


class _DeadlineStream(httpcore2.NetworkStream):
    """A connection whose reads and writes share one deadline, so that a slow peer cannot extend it."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, self._deadline.remaining)

    def write(self, buffer: Any, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._deadline.remaining)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.remaining)
        return _DeadlineStream(stream, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
