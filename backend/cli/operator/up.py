"""`loraledger up`: run the local stack under one supervisor."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Self, TextIO

import typer

from backend.cli.operator.supervisor import Service, Supervisor
from backend.client.local_stack import PORTS_FILE
from backend.disk.files import write_durably
from backend.domain.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.settings import Settings

CHAIN, ENGINE, GRADIENTS, INDEX, API, WATCH = "chain", "engine", "gradients", "index", "api", "watch"
DAEMONS = ("send", "relay", "worker", "settle", WATCH)
"""Started last: their starts take processor time, and no answer waits for them."""
WATCH_SECONDS = 0.25
API_STOP_SECONDS = 45
"""On shutdown the API waits for answers to end, then signs the receipts of the unfinished ones."""
END_SECONDS = 90
HANG_GRACE_SECONDS = 10.0
"""Time that an engine has to end itself when it hangs, which says where, before it is killed."""
ORPHAN_SECONDS = 10.0
"""Time that the children of a killed `up` may take to exit and free their ports."""


def register(app: typer.Typer) -> None:
    app.command()(up)


def up(
    *,
    rpc_url: Annotated[
        str,
        typer.Option(
            help="Node of chain 31337 that mines at an interval, instead of one that is started here."
        ),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object each time the stack is ready.")
    ] = False,
) -> None:
    """Run the local stack: chain, engine, indexer, API, sender, relay, worker, settler, watcher.

    Hardhat, which runs the chain, is found in this folder's `node_modules` or npm's global ones. Ctrl-C stops
    the stack.
    """
    from backend.settings import load_settings

    settings = load_settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())

    def say(text: str) -> None:
        typer.echo(text, err=as_json)

    with _only_one(settings.home):
        while not stop.is_set():
            with Stack(settings, say, rpc_url) as stack:
                stack.start(stop)
                if stop.is_set():
                    break
                _announce(stack, as_json=as_json)
                if not stack.run(stop):
                    say("chain: exited and lost its state; starting a new market")
    say("stopped")


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of the stack. Stored, so that clients find the stack again after a restart."""

    chain: int
    api: int
    rpc: str = ""
    """URL of a node that was not started here."""


class Stack:
    """The local services, in three stages: the chain, all that an answer needs, the other daemons."""

    def __init__(self, settings: Settings, say: Callable[[str], None], rpc_url: str = "") -> None:
        self.say = say
        self.ports = _choose_ports(settings, rpc_url)
        self.rpc_url = rpc_url or f"http://127.0.0.1:{self.ports.chain}"
        self.api_url = f"http://{_connect_host(settings.api_host)}:{self.ports.api}"
        self.settings = settings.model_copy(
            update={"rpc_url": self.rpc_url, "api_port": self.ports.api, "home": settings.home.resolve()}
        )
        self.supervisor = Supervisor(self.settings.home / "logs", say)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.supervisor.stop()

    def start(self, stop: threading.Event) -> None:
        """Start all services; returns early once `stop` is set."""
        from backend.installation import local_network as local

        if self.ports.rpc:
            self.say(f"chain: the node at {self.rpc_url}")
        else:
            self.say("chain: starting a Hardhat node")
            self.supervisor.start(self._chain(), stop=stop)
            if stop.is_set():
                return
        archive = local.prepare_chain(self.settings)
        if archive is not None:
            self.say(f"chain: a new chain; moved the data of the previous one to {archive}")
        self.say("base model: preparing (12 s the first time)")
        for info, base in zip(local.prepare_bases(self.settings), self.settings.served, strict=True):
            servers = f", served at {', '.join(base.urls)}" if base.urls else ""
            self.say(f"base model: {info.name}, sha-256 {info.digest[2:14]}...{servers}")
        # None of these needs another one to start: until the engines are ready, the API answers with 503.
        serving = *self._engines(), *self._gradients(), self._daemon(INDEX), self._api()
        for stage in (serving, tuple(map(self._daemon, DAEMONS))):
            if stop.is_set():
                return
            self.say(f"starting {', '.join(service.name for service in stage)}")
            self.supervisor.start(*stage, stop=stop)

    def run(self, stop: threading.Event) -> bool:
        """Keep all services running. True once `stop` is set; False if the chain exited, losing its state."""
        while not stop.wait(WATCH_SECONDS):
            if not self.ports.rpc and not self.supervisor.is_running(CHAIN):
                return False
            self.supervisor.watch_once()
        return True

    def _environment(self) -> dict[str, str]:
        from backend.installation import local_network as local

        return local.child_environment(self.settings, self.rpc_url, self.ports.api)

    def _chain(self) -> Service:
        from backend.installation import local_network as local

        log = self.supervisor.log_of(CHAIN)
        log.unlink(missing_ok=True)
        return Service(
            CHAIN,
            local.chain_command(self.settings, self.ports.chain),
            is_ready=lambda: local.is_chain_ready(log),
            stop_signal=signal.SIGINT,  # SIGTERM leaves a Hardhat node running
        )

    def _model(self, name: str, socket: Path, command: tuple[list[str], dict[str, str]]) -> Service:
        """A process that loads a base model and serves it on `socket`."""
        argv, environment = command
        socket.parent.mkdir(parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
        return Service(name, argv, self._environment() | environment, is_ready=socket.exists)

    def _engines(self) -> list[Service]:
        """The engines, which are killed and started again when they hang and do not end themselves."""
        from backend.installation import local_network as local

        services, hang_seconds = [], self.settings.engine_stall_seconds + HANG_GRACE_SECONDS
        for replica, path in chain.from_iterable(base.sockets.items() for base in self.settings.served):
            name = _numbered(ENGINE, replica)
            service = self._model(name, path, local.engine_command(self.settings, replica))
            silence = local.engine_silence(path)
            services.append(dataclasses.replace(service, silence=silence, hang_seconds=hang_seconds))
        return services

    def _gradients(self) -> list[Service]:
        """The processes that compute gradients, one for each base model, if the settings ask for them."""
        from backend.installation import local_network as local

        bases = self.settings.served if self.settings.has_gradients else []
        return [
            self._model(
                _numbered(GRADIENTS, number),
                base.gradients_socket,
                local.gradients_command(self.settings, number),
            )
            for number, base in enumerate(bases, start=1)
        ]

    def _daemon(self, name: str) -> Service:
        from backend.installation import local_network as local

        # The watcher's output and its log go to one file, so both must have the same format.
        is_json = name == WATCH and self.settings.log_format == "json"
        argv = [*local.main_command(name), *(["--json"] if is_json else [])]
        return Service(name, argv, self._environment())

    def _api(self) -> Service:
        from backend.installation import local_network as local
        from backend.installation.metrics import load_metrics_token

        token = load_metrics_token(self.settings)
        return Service(
            API,
            local.main_command("serve"),
            self._environment(),
            is_ready=lambda: is_own_api(self.api_url, token),
            stop_seconds=API_STOP_SECONDS,
        )


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def describe(stack: Stack) -> dict[str, Any]:
    """Describe the stack for clients: addresses, contracts, test accounts."""
    from backend.installation import local_network as local
    from backend.installation.installation import Installation

    deployment = Installation(stack.settings).deployment
    return {
        "api": stack.api_url,
        "rpc": stack.rpc_url,
        "chain_id": deployment.chain_id,
        "home": str(stack.settings.home),
        "contracts": deployment.addresses,
        "deployment_block": deployment.block_number,
        "accounts": [
            {"index": a.index, "role": a.role, "account": a.account, "private_key": a.private_key}
            for a in local.well_known_accounts()
        ],
        "processes": stack.supervisor.pids(),
    }


def _announce(stack: Stack, *, as_json: bool) -> None:
    facts = describe(stack)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    stack.say(f"\nAPI    {facts['api']}   (OpenAPI document: {facts['api']}/openapi.json)")
    stack.say(f"chain  {facts['rpc']}   chain id {facts['chain_id']}")
    stack.say(f"record {stack.settings.deployment_file}   (for wallets of your own: docs/wallets.md)")
    stack.say(f"logs   {stack.settings.home / 'logs'}\n")
    for name, address in sorted(facts["contracts"].items()):
        stack.say(f"  {name:20} {address}")
    stack.say("\nTest accounts with public keys (mnemonic: eleven times `test`, then `junk`):\n")
    for entry in facts["accounts"]:
        stack.say(f"  {entry['index']}  {entry['account']}  {entry['role']}")
        stack.say(f"     {entry['private_key']}")
    stack.say("\nCtrl-C stops the stack.")


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when this process exits. The lock file contains its process id."""
    path = _lock_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not _try_lock(file):
            raise Conflict(
                f"another `loraledger up` is running in {home}; set LORALEDGER_HOME to run a second one"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def end_running(home: Path) -> None:
    """Stop the `up` that is running in `home`, if any. Errors: `Unavailable` if it does not stop."""
    path = _lock_file(home)
    if not path.is_file():
        return
    with path.open("r+") as file:
        until = time.monotonic() + END_SECONDS
        while not _try_lock(file):
            if time.monotonic() > until:
                raise Unavailable(
                    f"`loraledger up` in {home} does not stop; kill the process whose id is in {path}"
                )
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)
            time.sleep(1)


def _lock_file(home: Path) -> Path:
    return home / "run" / "up.lock"


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _choose_ports(settings: Settings, rpc_url: str) -> Ports:
    """Prefer the ports of the previous run, then those of the settings; store the choice."""
    from backend.installation.local_network import choose_port

    path = settings.home / PORTS_FILE
    preferred, wait_seconds = Ports(8545, settings.api_port), 0.0
    if path.is_file():
        previous = Ports(**json.loads(path.read_text()))
        is_set = "api_port" in settings.model_fields_set
        preferred = Ports(previous.chain, settings.api_port if is_set else previous.api)
        wait_seconds = ORPHAN_SECONDS
    chain_port = preferred.chain if rpc_url else choose_port(preferred.chain, wait_seconds)
    chosen = Ports(chain_port, choose_port(preferred.api, wait_seconds), rpc_url)
    write_durably(path, json.dumps(asdict(chosen)))
    return chosen


def _connect_host(host: str) -> str:
    """Host by which to connect to a server that listens on `host`."""
    return "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104 - compared, not bound


def is_own_api(url: str, metrics_token: str) -> bool:
    """Whether the API of this home answers, which knows its token: another installation may have taken the
    port since it was chosen.
    """
    import httpx

    try:
        headers = {"authorization": f"Bearer {metrics_token}"}
        # Without a proxy from the environment, which cannot reach this machine, nor is to get the token.
        return httpx.get(f"{url}/metrics", headers=headers, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
