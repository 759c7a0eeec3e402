"""Processes that benchmarks start and wait for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Unavailable
from backend.loopback import free_port
from benchmarks.processes import await_listeners, running, variables

if TYPE_CHECKING:
    from pathlib import Path


def test_a_process_that_ends_before_it_listens_is_reported_with_its_log(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    ends = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        log_file.open("wb") as log,
        running(waits, {}) as waiting,
        running(ends, {}, log) as ending,
        pytest.raises(Unavailable, match=r"(?s)ended with status 3\nno such model"),
    ):
        await_listeners([waiting, ending], [free_port()], log_file)


def test_a_process_that_listens_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listens = (
        "import socket, sys; server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); "
        "server.listen(); server.accept()[0].recv(1)"
    )
    with running([sys.executable, "-c", listens, str(path)], {}) as process:
        await_listeners([process], [path])


def test_settings_become_variables() -> None:
    named = {"api_port": 8001, "rpc_url": "http://node", "keystore_password_file": None}
    assert variables(named) == {"LORALEDGER_API_PORT": "8001", "LORALEDGER_RPC_URL": "http://node"}
