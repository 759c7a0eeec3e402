from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tools.chaos.__main__ import KILLS_PER_SETTLEMENT, faults
from tools.chaos.clock import WallClock
from tools.chaos.faults import KILLED
from tools.chaos.proxy import Proxy
from tools.chaos.report import table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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


def test_a_slow_proxy_delays_what_it_forwards(echo: Proxy) -> None:
    with connected(echo) as client:
        echo.slow(0.05)
        began = time.monotonic()
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        assert time.monotonic() - began >= 0.1, "both directions are delayed"
        assert echo.num_delayed == 2
        echo.restore()
        client.sendall(b"again")
        assert client.recv(100) == b"again"
        assert echo.num_delayed == 2


def test_the_wall_clock_of_a_running_program_moves_and_no_other_clock(tmp_path: Path) -> None:
    program = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with (
        WallClock(tmp_path) as clock,
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **clock.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as shown,
    ):
        assert shown.stdin is not None
        assert shown.stdout is not None
        for skew in (0, 600, -600, 0):
            clock.move(skew)
            shown.stdin.write("\n")
            wall, monotonic = map(float, shown.stdout.readline().split())
            assert wall - time.time() == pytest.approx(skew, abs=60)
            assert monotonic == pytest.approx(time.monotonic(), abs=60)


def test_the_table_sums_up_each_fault() -> None:
    seconds = {"kill -9 send": [1.0, 9.0, 2.0], "disk full": [4.5]}
    rounds = [
        {"fault": fault, "back_after_seconds": each, "answers": 3, "failures": 1}
        for fault, measured in seconds.items()
        for each in measured
    ]
    assert table(rounds).splitlines()[2:] == [
        "| kill -9 send | 3 | 2.0 | 9.0 | 9 | 3 |",
        "| disk full | 1 | 4.5 | 4.5 | 3 | 1 |",
    ]
