from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from inference.errors import SocketTakenError
from inference.server.process import listen, locked_socket

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path


def test_a_path_belongs_to_one_engine_until_it_ends(tmp_path: Path) -> None:
    socket_path = tmp_path / "run" / "e.sock"
    with locked_socket(socket_path):
        with pytest.raises(SocketTakenError, match=f"process {os.getpid()} is the engine") as refusal:
            locked_socket(socket_path).__enter__()
        assert refusal.value.code == "socket_taken"
    with locked_socket(socket_path):
        pass


def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer than 107 bytes"):
        locked_socket(tmp_path / ("x" * 120)).__enter__()


async def ignore(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None: ...


async def test_a_listener_replaces_what_a_killed_process_left_and_is_closed_to_other_users(
    tmp_path: Path,
) -> None:
    socket_path = tmp_path / "e.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(socket_path))
    left.close()
    assert socket_path.is_socket()
    async with await listen(socket_path, ignore):
        assert socket_path.stat().st_mode & 0o777 == 0o600
