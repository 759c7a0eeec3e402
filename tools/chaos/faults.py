"""The faults: each function returns when its fault is over, and what follows is the market's business."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.client.waiting import wait_until
from tools.chaos.errors import ChaosError
from tools.chaos.market import STALL_SECONDS, children
from workers.app import QUEUES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tools.chaos.market import ChaosMarket

KILLED = ("serve", "engine", "engine-2", "index", "send", "settle", "relay", "worker", "watch")
GONE_SECONDS = {"chain gone": 60.0, "database gone": 30.0}
FULL_SECONDS = 30.0
REORG_BLOCKS = 8
SLOW_SECONDS, DELAY_SECONDS = 60.0, 2.0
"""How long the IPFS daemon is slow, and the delay of each piece of data."""
SKEW_SECONDS, SKEWED_SECONDS = 600, 30.0
"""By how much the clock is wrong, and for how long."""
NO_MEMORY_SECONDS = 15.0
WAIT_SECONDS = 120.0
"""Longest wait for the state that a fault strikes."""
_FILL_BYTES = 1 << 20
_TRAINING = "the worker to start to train"


@dataclass(frozen=True, slots=True)
class Fault:
    """`strike` returns once the fault is over; a number is the time (`time.monotonic`) since which it was.
    `kills`: names of the processes that it ends at once. `with_job`: a fine-tuning job runs during the fault.
    `loses_bills`: an answer may be charged and its bill not reach the client, because the API ends, or the
    database while it commits.
    """

    name: str
    strike: Callable[[ChaosMarket], float | None]
    kills: Sequence[str] = ()
    with_job: bool = False
    loses_bills: bool = False


def kill(name: str, *, with_job: bool = False) -> Fault:
    return Fault(
        f"kill -9 {name}", lambda market: market.kill(name), [name], with_job, loses_bills=name == "serve"
    )


def kill_up(market: ChaosMarket) -> float:
    """All processes of the operator at once; they are started again as a service manager would."""
    market.kill_up()
    killed_at = time.monotonic()
    market.begin_up()
    return killed_at


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

    def is_long() -> bool | None:
        return int(rpc.request("eth_blockNumber"), 16) >= start + REORG_BLOCKS or None

    wait_until(is_long, f"{REORG_BLOCKS} blocks", WAIT_SECONDS)
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


def slow_ipfs(market: ChaosMarket) -> None:
    """Make each call of the IPFS daemon slow while batches and adapters are published."""
    before = market.ipfs_proxy.num_delayed
    market.ipfs_proxy.slow(DELAY_SECONDS)
    time.sleep(SLOW_SECONDS)
    market.ipfs_proxy.restore()
    if market.ipfs_proxy.num_delayed == before:
        raise ChaosError("nothing was slow: the market did not use its IPFS daemon")


def skewed_clock(market: ChaosMarket, seconds: int) -> None:
    """The wall clock of the operator's machine is wrong; those of chain, database and broker are right."""
    market.clock.move(seconds)
    time.sleep(SKEWED_SECONDS)
    market.clock.move(0)


def no_memory(market: ChaosMarket) -> None:
    """Refuse all further memory to the worker and its training process, which must fail of it."""
    worker = market.pid("worker")
    (trainer,) = wait_until(lambda: children(worker) or None, _TRAINING, WAIT_SECONDS)[:1]
    unlimited = resource.prlimit(worker, resource.RLIMIT_DATA)
    for pid in (trainer, worker):
        _, most = resource.prlimit(pid, resource.RLIMIT_DATA)
        # Linux ignores a limit of 0.
        resource.prlimit(pid, resource.RLIMIT_DATA, (resource.getpagesize(), most))
    try:
        time.sleep(NO_MEMORY_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the supervisor has replaced it
            resource.prlimit(worker, resource.RLIMIT_DATA, unlimited)
    wait_until(
        lambda: market.jobs.num_trainings > 1 or None, "the training to fail without memory", WAIT_SECONDS
    )


def emptied_broker(market: ChaosMarket) -> None:
    """Lose all messages while the worker is busy and a further job waits in the broker."""
    wait_until(lambda: children(market.pid("worker")) or None, _TRAINING, WAIT_SECONDS)
    market.jobs.start()
    wait_until(lambda: any(map(market.broker.llen, QUEUES)) or None, "a message", WAIT_SECONDS)
    market.broker.flushall()


KILL_UP = Fault("kill -9 of all processes", kill_up, KILLED, with_job=True, loses_bills=True)
DISK_FULL = Fault("disk full", disk_full, loses_bills=True)
OTHERS = (
    Fault("chain gone", chain_gone),
    Fault("database gone", database_gone, loses_bills=True),
    Fault(f"reorganisation {REORG_BLOCKS} deep", reorganisation),
    Fault("hung engine", hung_engine),
    Fault("slow IPFS", slow_ipfs),
    Fault("clock 10 minutes ahead", lambda market: skewed_clock(market, SKEW_SECONDS)),
    Fault("clock 10 minutes behind", lambda market: skewed_clock(market, -SKEW_SECONDS)),
    Fault("worker out of memory", no_memory, with_job=True),
    Fault("emptied broker", emptied_broker, with_job=True),
)
