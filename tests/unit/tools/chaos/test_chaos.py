from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tools.chaos.__main__ import KILLS_PER_SETTLEMENT, faults
from tools.chaos.faults import KILLED
from tools.chaos.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def echo() -> Iterator[Proxy]:
    """A proxy before a server that repeats what it reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=repeat, args=[connection], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        with Proxy(lambda: socket.create_connection(listener.getsockname())) as proxy:
            yield proxy
        listener.shutdown(socket.SHUT_RDWR)


def repeat(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(100):
            connection.sendall(data)


def connected(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port))
    connection.settimeout(10)
    return connection


def test_a_proxy_forwards_until_it_is_cut_and_again_afterwards(echo: Proxy) -> None:
    with connected(echo) as first:
        first.sendall(b"hello")
        assert first.recv(100) == b"hello"
        echo.cut()
        assert first.recv(100) == b""
    with connected(echo) as second:
        assert second.recv(100) == b""
    echo.restore()
    with connected(echo) as third:
        third.sendall(b"again")
        assert third.recv(100) == b"again"


def test_every_process_is_killed_and_the_money_counted_in_between() -> None:
    chosen = list(faults(25, seed=1, has_disk=True))
    assert [fault.name for fault, _ in chosen[: len(KILLED)]] == [f"kill -9 {name}" for name in KILLED]
    counted = [number for number, (_, must_settle) in enumerate(chosen) if must_settle]
    assert counted[:3] == [KILLS_PER_SETTLEMENT - 1, 2 * KILLS_PER_SETTLEMENT - 1, 24]
    assert all(must_settle for _, must_settle in chosen[25:])
    assert chosen[-1][0].name == "disk full"
    names = [fault.name for fault, _ in faults(25, seed=1, has_disk=True)]
    assert names == [fault.name for fault, _ in chosen], "a seed repeats"
