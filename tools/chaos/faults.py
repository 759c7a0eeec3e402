"""The faults: each function returns when its fault is over, and what follows is the market's business."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.chaos.market import STALL_SECONDS, ChaosError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tools.chaos.market import ChaosMarket

KILLED = ("serve", "engine", "engine-2", "index", "send", "settle", "relay", "worker", "watch")
GONE_SECONDS = {"chain gone": 60.0, "database gone": 30.0}
FULL_SECONDS = 30.0
REORG_BLOCKS = 8
_FILL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    strike: Callable[[ChaosMarket], None]


def kill(name: str) -> Fault:
    return Fault(f"kill -9 {name}", lambda market: market.kill(name))


def kill_up(market: ChaosMarket) -> None:
    """All processes of the operator at once; they are started again as a service manager would."""
    market.kill_up()
    market.up()


def chain_gone(market: ChaosMarket) -> None:
    market.chain_proxy.cut()
    time.sleep(GONE_SECONDS["chain gone"])
    market.chain_proxy.restore()


def database_gone(market: ChaosMarket) -> None:
    market.database_proxy.cut()
    time.sleep(GONE_SECONDS["database gone"])
    market.database_proxy.restore()


def disk_full(market: ChaosMarket) -> None:
    ballast = market.disk / "ballast"
    _fill(ballast)
    time.sleep(FULL_SECONDS)
    ballast.unlink()


def _fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with path.open("wb", buffering=0) as file:
        for size in (_FILL_BYTES, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def reorganisation(market: ChaosMarket) -> None:
    """Replace the newest blocks, with the operator's transactions in them, by others."""
    rpc = market.rpc
    before = rpc.request("evm_snapshot")
    start = int(rpc.request("eth_blockNumber"), 16)
    while int(rpc.request("eth_blockNumber"), 16) < start + REORG_BLOCKS:
        time.sleep(0.05)
    if not rpc.request("evm_revert", before):
        raise ChaosError("the node did not go back to its snapshot")
    rpc.request("hardhat_mine", hex(REORG_BLOCKS + 1))


def hung_engine(market: ChaosMarket) -> None:
    """Stop an engine without ending it, until its supervisor has replaced it."""
    pid = market.pid("engine-2")
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 6 * STALL_SECONDS
    while market.processes().get("engine-2") == pid:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGCONT)
            raise ChaosError("the supervisor did not replace an engine that hung")
        time.sleep(0.2)


KILL_UP = Fault("kill -9 of all processes", kill_up)
DISK_FULL = Fault("disk full", disk_full)
OTHERS = (
    Fault("chain gone", chain_gone),
    Fault("database gone", database_gone),
    Fault(f"reorganisation {REORG_BLOCKS} deep", reorganisation),
    Fault("hung engine", hung_engine),
)
