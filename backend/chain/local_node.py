"""Runs a Hardhat node on loopback, the local chain of `loraledger up` and of the tests."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from backend.chain.rpc import Rpc
from backend.domain.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from typing import Self

ROOT = Path(__file__).parents[2]
READY_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 10


def command(port: int, root: Path = ROOT) -> list[str]:
    """Command that starts the node, to be run in `root`. Stop it with SIGINT: it ignores SIGTERM."""
    node = root / "node_modules" / ".bin" / "node"
    hardhat = root / "node_modules" / "hardhat" / "dist" / "src" / "cli.js"
    for path in (node, hardhat):
        if not path.exists():
            raise NotFound(f"{path} is missing: run `make setup`, which installs the chain's tools")
    return [str(node), str(hardhat), "node", "--hostname", "127.0.0.1", "--port", str(port)]


def free_port() -> int:
    """An unused port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _require_free(port: int) -> None:
    """Errors: `Unavailable` if the port is in use, since another server would pass for the new node."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Unavailable(
                f"port {port} of 127.0.0.1 is in use: stop the process that listens there"
            ) from error


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the node responds. Errors: `Unavailable` if it ends or does not respond in time."""
    rpc = Rpc(url, retries=1)
    until = time.monotonic() + READY_TIMEOUT_SECONDS
    try:
        while process.poll() is None and time.monotonic() < until:
            try:
                rpc.request("eth_chainId")
            except Unavailable:
                time.sleep(0.1)
            else:
                return
    finally:
        rpc.close()
    raise Unavailable(f"the local chain did not start; its output is in {log}")


class LocalNode:
    """A running node, stopped at the end of a `with` block. Its chain is lost when it stops."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process = process
        self.url = url

    @classmethod
    def start(cls, log: Path, port: int = 0, root: Path = ROOT) -> Self:
        """Start a node and wait until it responds. Its output, which includes every request, goes to `log`.

        Errors: `Unavailable` if it does not start or the port is in use.
        """
        port = port or free_port()
        _require_free(port)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command(port, root),
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the parent, which stops its processes in order
            )
        node = cls(process, f"http://127.0.0.1:{port}")
        try:
            wait_until_ready(node.url, process, log)
        except BaseException:
            node.stop()
            raise
        return node

    def stop(self) -> None:
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
