"""Requests to untrusted URLs, against servers that misbehave."""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import httpcore2
import pytest

from backend.outbound.client import NUM_RESOLVER_THREADS, OutboundClient
from backend.ports.outbound import AddressRefused, Posted, Unreachable
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOOPBACK = "127.0.0.1"
HEAD = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def server(play: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that plays its part once for each connection; its port."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        play(connection)
                    except OSError:
                        continue  # the client has hung up on us, as it should

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def saying(answer: bytes) -> Callable[[socket.socket], None]:
    def play(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return play


def at(port: int, host: str = LOOPBACK) -> str:
    return f"http://{host}:{port}/x?y=1"


def fetch(client: OutboundClient, url: str, max_bytes: int = 1000, seconds: float = 5) -> bytes:
    return b"".join(client.get(url, accept="*/*", max_bytes=max_bytes, seconds=seconds))


class Connecting(httpcore2.NetworkBackend):
    """Records the addresses of connections, and refuses them."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def connect_tcp(self, host: str, *_args: Any, **_options: Any) -> httpcore2.NetworkStream:
        self.tried.append(host)
        raise httpcore2.ConnectError("refused")


def test_the_body_of_an_answer_arrives_whole() -> None:
    with server(saying(HEAD + b"content-length: 5\r\n\r\nhello")) as port:
        assert fetch(OutboundClient(allows_private=True), at(port)) == b"hello"


def test_allowing_private_addresses_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        OutboundClient()
        assert not caplog.records
        OutboundClient(allows_private=True)
    assert "private addresses" in caplog.text


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "[::1]",
        "[::ffff:7f00:1]",
    ],
)
def test_no_spelling_of_this_machine_is_called(host: str) -> None:
    network = Connecting()
    with pytest.raises(Unreachable):
        fetch(OutboundClient(network=network), at(80, host))
    assert network.tried == []


@pytest.mark.parametrize(
    "answer", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["2606:4700::1", "::ffff:10.0.0.1"]]
)
def test_a_host_is_refused_if_one_of_its_addresses_is_private(answer: list[str]) -> None:
    network = Connecting()
    with pytest.raises(AddressRefused):
        fetch(OutboundClient(resolve=lambda *_: answer, network=network), at(80, "rebound.example"))
    assert network.tried == []


def test_a_second_look_up_has_no_say_in_where_the_connection_goes() -> None:
    answers, asked, network = iter([["8.8.8.8"], ["127.0.0.1"]]), [], Connecting()

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return next(answers)

    with pytest.raises(Unreachable):
        fetch(OutboundClient(resolve=resolve, network=network), at(81, "rebound.example"))
    assert asked == [("rebound.example", 81)]
    assert network.tried == ["8.8.8.8"]


def test_the_next_address_is_tried_if_one_does_not_answer() -> None:
    network = Connecting()
    addresses = [f"8.8.8.{number}" for number in range(9)]
    with pytest.raises(Unreachable):
        fetch(OutboundClient(resolve=lambda *_: addresses, network=network), at(80, "many.example"))
    assert network.tried == addresses[:4]


@pytest.mark.parametrize(
    "status", [b"301 Moved", b"302 Found", b"307 Temporary", b"404 Not", b"500 No", b"204 None"]
)
def test_a_redirect_is_not_followed_and_only_a_200_is_an_answer(status: bytes) -> None:
    asked: list[bytes] = []

    def play(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        head = b"HTTP/1.1 " + status + b"\r\nlocation: http://169.254.169.254/latest\r\n"
        connection.sendall(head + b"content-length: 0\r\n\r\n")

    with server(play) as port, pytest.raises(Unreachable, match=status[:3].decode()):
        fetch(OutboundClient(allows_private=True), at(port))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/\r\nhost: other",
        "http://127.0.0.1/\tx",
        "http://127.0.0.1/ x",
        "http://127.0.0.1\\@elsewhere/",
        "http://user:secret@127.0.0.1/",
        "http:///path",
        "http://[::1/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        "http://ex\u00e4mple/",
        "http://127.0.0.1/" + "x" * 3000,
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "127.0.0.1/",
        "",
    ],
)
def test_an_invalid_http_url_is_refused(url: str) -> None:
    network = Connecting()
    with pytest.raises(AddressRefused):
        fetch(OutboundClient(allows_private=True, network=network), url)
    assert network.tried == []


def test_an_announced_and_an_endless_body_end_at_the_limit() -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(65536)
        connection.sendall(HEAD + b"\r\n")
        while True:
            sent += connection.send(b"x" * 4096)

    with server(endless) as port, pytest.raises(Unreachable, match="more than 1000 bytes"):
        fetch(OutboundClient(allows_private=True), at(port))
    assert sent < 64 << 20


@pytest.mark.parametrize("head", [b"", HEAD + b"\r\n"], ids=["head", "body"])
def test_an_answer_that_trickles_ends_at_the_deadline(head: bytes) -> None:
    """Each piece comes soon after the one before, so a limit on waiting alone would never be met."""
    has_ended = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        for byte in HEAD[:-2] * 100:
            if has_ended.wait(0.02):
                return
            connection.sendall(bytes([byte]))

    with server(trickle) as port:
        with pytest.raises(Unreachable, match="did not answer within"):
            fetch(OutboundClient(allows_private=True), at(port), seconds=0.3)
        has_ended.set()


class Scripted(httpcore2.NetworkBackend, httpcore2.NetworkStream):
    """Connects to itself. Each read returns a part of an answer, after so many seconds of its clock."""

    def __init__(self, *parts: tuple[float, bytes]) -> None:
        self.parts, self.now = list(parts), 0.0

    def monotonic(self) -> float:
        return self.now

    def connect_tcp(self, *_args: Any, **_options: Any) -> httpcore2.NetworkStream:
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        seconds, part = self.parts.pop(0)
        self.now += seconds
        return part

    def write(self, buffer: bytes, timeout: float | None = None) -> None: ...

    def close(self) -> None: ...

    def get_extra_info(self, info: str) -> Any: ...


@pytest.mark.parametrize(
    ("seconds", "passed", "error"),
    [
        (100, 69, None),
        (100, 71, "sent less than 10 bytes per second"),
        (50, 49, None),
        (50, 51, "did not answer within 50 s"),
    ],
)
def test_a_body_must_keep_its_minimum_rate_after_the_start(
    monkeypatch: pytest.MonkeyPatch, seconds: float, passed: float, error: str | None
) -> None:
    """600 bytes come at once, which is enough for 60 s after the first ten."""
    head = HEAD + b"content-length: 605\r\n\r\n"
    network = Scripted((0, head + b"x" * 600), (passed, b"hell"), (0, b"o"))
    monkeypatch.setattr("backend.outbound.client.time", network)
    client = OutboundClient(allows_private=True, network=network)
    body = client.get(at(80), accept="*/*", max_bytes=1000, seconds=seconds, min_rate=10)
    with pytest.raises(Unreachable, match=error) if error else nullcontext():
        assert b"".join(body).endswith(b"xhello")


def test_the_time_of_a_slow_reader_does_not_count_towards_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    head = HEAD + b"content-length: 12\r\n\r\n"
    network = Scripted((0, head + b"hello "), (5, b"world"), (5, b"!"))
    monkeypatch.setattr("backend.outbound.client.time", network)
    client = OutboundClient(allows_private=True, network=network)
    received = b""
    for part in client.get(at(80), accept="*/*", max_bytes=1000, seconds=1000, min_rate=10):
        received += part
        network.now += 100
    assert received == b"hello world!"


def test_a_server_that_sends_no_body_did_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Scripted((11, HEAD[:4]))
    monkeypatch.setattr("backend.outbound.client.time", network)
    client = OutboundClient(allows_private=True, network=network)
    with pytest.raises(Unreachable, match="did not answer within 10 s"):
        b"".join(client.get(at(80), accept="*/*", max_bytes=1000, seconds=60, min_rate=10))


def test_a_look_up_that_hangs_ends_at_the_deadline() -> None:
    may_end = threading.Event()

    def resolve(_host: str, _port: int) -> Sequence[str]:
        may_end.wait(60)
        return []

    try:
        with pytest.raises(Unreachable, match="did not answer within"):
            fetch(OutboundClient(resolve=resolve), at(80, "slow.example"), seconds=0.1)
    finally:
        may_end.set()


def test_look_ups_that_nobody_waits_for_any_more_do_not_begin() -> None:
    may_end, looked_up = threading.Event(), []

    def resolve(host: str, _port: int) -> Sequence[str]:
        looked_up.append(host)
        may_end.wait(60)
        return ["127.0.0.1"]

    client = OutboundClient(allows_private=True, resolve=resolve)
    with ThreadPoolExecutor(NUM_RESOLVER_THREADS) as requests:
        for number in range(NUM_RESOLVER_THREADS):
            requests.submit(client.check, f"https://{number}.example/", seconds=60)
        try:
            assert wait_for(lambda: len(looked_up) == NUM_RESOLVER_THREADS)
            with pytest.raises(Unreachable, match="was not resolved within"):
                client.check("https://late.example/", seconds=0)
        finally:
            may_end.set()
    client.check("https://honest.example/", seconds=60)
    assert looked_up[NUM_RESOLVER_THREADS:] == ["honest.example"]


def test_an_answer_that_is_no_http_is_unreachable() -> None:
    with server(saying(b"SSH-2.0-OpenSSH\r\n")) as port, pytest.raises(Unreachable):
        fetch(OutboundClient(allows_private=True), at(port))


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with server(saying(HEAD + b"content-length: 2\r\n\r\nok")) as port:
        assert fetch(OutboundClient(allows_private=True), at(port)) == b"ok"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"204 No Content", Posted(204)),
        (b"302 Found\r\nlocation: http://169.254.169.254/latest", Posted(302)),
        (b"429 Later\r\nRetry-After: 30", Posted(429, 30)),
        (b"503 Later\r\nretry-after: Wed, 21 Oct 2026 07:28:00 GMT", Posted(503)),
    ],
)
def test_posting_sends_the_body_and_returns_the_status(head: bytes, expected: Posted) -> None:
    asked: list[bytes] = []

    def play(connection: socket.socket) -> None:
        while b"hello" not in b"".join(asked):
            asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 " + head + b"\r\n\r\n")

    with server(play) as port:
        client = OutboundClient(allows_private=True)
        assert client.post(at(port), body=b"hello", headers={"webhook-id": "1"}, seconds=5) == expected
    sent = b"".join(asked)
    assert sent.startswith(b"POST /x?y=1 HTTP/1.1\r\n")
    assert b"content-length: 5\r\n" in sent.lower()
    assert b"webhook-id: 1\r\n" in sent.lower()


def test_a_body_that_follows_the_status_is_not_read() -> None:
    def endless(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + b"\r\n")
        while True:
            connection.send(b"x" * 4096)

    with server(endless) as port:
        client = OutboundClient(allows_private=True)
        assert client.post(at(port), body=b"", headers={}, seconds=5) == Posted(200)


def test_data_is_sent_by_https_only_and_not_into_private_networks() -> None:
    network = Connecting()
    client = OutboundClient(
        resolve=lambda host, _: ["10.0.0.1"] if host == "in.example" else ["8.8.8.8"], network=network
    )
    for url in ("http://out.example/", "https://in.example/", "https://in.example:8443/"):
        with pytest.raises(AddressRefused):
            client.check(url, seconds=5)
        with pytest.raises(AddressRefused):
            client.post(url, body=b"", headers={}, seconds=5)
    client.check("https://out.example/", seconds=5)
    OutboundClient(allows_private=True).check("http://127.0.0.1:1/", seconds=5)
    assert network.tried == []


def test_a_check_ends_at_its_deadline() -> None:
    may_end = threading.Event()

    def resolve(_host: str, _port: int) -> Sequence[str]:
        may_end.wait(60)
        return []

    try:
        with pytest.raises(Unreachable, match="was not resolved within"):
            OutboundClient(resolve=resolve).check("https://slow.example/", seconds=0.1)
    finally:
        may_end.set()
