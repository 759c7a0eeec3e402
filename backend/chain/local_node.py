"""Runs a Hardhat node on loopback, the local chain of `loraledger up` and of the tests."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from backend.chain.rpc import Rpc
from backend.domain.errors import NotFound, Unavailable
from backend.loopback import free_port, is_free
from backend.processes.parent import die_with_parent

if TYPE_CHECKING:
    from typing import Self

ROOT = Path(__file__).parents[2]
"""Root of the source tree, if this is one."""
CONFIG = Path(__file__).with_name("hardhat.config.js")
HARDHAT = Path("hardhat", "dist", "src", "cli.js")
LEAST_NODE = 22, 13
INSTALL = (
    "install Node.js 22.13 or later and run `npm install hardhat@3` in this folder, or name a node of chain "
    "31337 with --rpc-url"
)
READY_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 10


def command(port: int, folder: Path) -> list[str]:
    """Command that starts the node, after preparing its project in `folder`. Runs in any working directory.

    Stop it with SIGINT: it ignores SIGTERM. Errors: `NotFound` that says what to install.
    """
    modules = find_hardhat()
    _make_project(folder, modules)
    hardhat = folder / "node_modules" / HARDHAT
    config = folder / CONFIG.name
    arguments = ["node", "--hostname", "127.0.0.1", "--port", str(port)]
    return [_find_node(modules), str(hardhat), "--config", str(config), *arguments]


def find_hardhat() -> Path:
    """The `node_modules` with Hardhat: of the current folder, of the source tree, or npm's global one.

    Errors: `NotFound` that says what to install.
    """
    places = (Path.cwd() / "node_modules", ROOT / "node_modules")
    found = next((place for place in places if (place / HARDHAT).is_file()), None) or _global_modules()
    if found is None:
        raise NotFound(f"the local chain needs Hardhat: {INSTALL}")
    return found


def _global_modules() -> Path | None:
    npm = shutil.which("npm")
    if npm is None:
        return None
    asked = subprocess.run([npm, "root", "--global"], capture_output=True, text=True, check=False)
    place = Path(asked.stdout.strip())
    return place if (place / HARDHAT).is_file() else None


def _find_node(modules: Path) -> str:
    """Node.js of the npm package `node` next to Hardhat, else of the system."""
    own = modules / ".bin" / "node"
    program = str(own) if own.exists() else shutil.which("node")
    if program is None:
        raise NotFound(f"the local chain needs Node.js: {INSTALL}")
    asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = asked.stdout.strip()
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < LEAST_NODE:
        raise NotFound(f"the local chain needs a later Node.js than {version or program}: {INSTALL}")
    return program


def _make_project(folder: Path, modules: Path) -> None:
    """Hardhat runs only in a project in which it is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
    shutil.copyfile(CONFIG, folder / CONFIG.name)
    link = folder / "node_modules"
    if not link.is_symlink() or link.resolve() != modules.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(modules.resolve())


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
    def start(cls, log: Path, port: int = 0) -> Self:
        """Start a node and wait until it responds. Its output, which includes every request, goes to `log`.

        Errors: `Unavailable` if it does not start or the port is in use.
        """
        port = port or free_port()
        if not is_free(port):  # another server would pass for the new node
            raise Unavailable(f"port {port} of 127.0.0.1 is in use: stop the process that listens there")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command(port, log.parent / "hardhat"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the parent, which stops its processes in order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - it makes one system call
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
