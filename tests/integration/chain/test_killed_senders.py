"""Two senders on one key behind an RPC that loses, refuses and forgets, killed at random moments: every write
happens once, and no nonce is left out.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from backend.chain.keys import local_account
from backend.db.tables.transactions import TransactionRow
from backend.deployment.deployment_file import save_deployment
from backend.domain.transactions import TransactionState
from tests.support.faulty_rpc import RealNode, SendingFaults, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.db.unit_of_work import Database

PROGRAM = Path(__file__).with_name("sending_process.py")
LANE = local_account(1).account
SETTLED = (TransactionState.CONFIRMED, TransactionState.FAILED)


@contextmanager
def senders(*arguments: str) -> Iterator[Callable[[], int]]:
    """A function that starts another sender and returns its process id."""
    started: list[int] = []
    command = [sys.executable, str(PROGRAM), *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as nursery:

        def start() -> int:
            assert nursery.stdin is not None
            assert nursery.stdout is not None
            nursery.stdin.write("\n")
            nursery.stdin.flush()
            started.append(int(nursery.stdout.readline()))
            return started[-1]

        try:
            yield start
        finally:
            for process in started:
                kill(process)
            assert nursery.stdin is not None
            nursery.stdin.close()


def kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def count(database: Database, *states: TransactionState) -> int:
    with database.read() as tx:
        query = select(func.count()).where(TransactionRow.state.in_(states))
        return tx.session.scalar(query) or 0


def survive(
    chain: ChainClient, node: LocalNode, database: Database, folder: Path, num_writes: int, num_kills: int
) -> set[str]:
    """The faults that occurred."""
    url = database.engine.url.render_as_string(hide_password=False)
    save_deployment(chain.deployment, folder / "deployment.json")
    with database.begin() as tx:
        for number in range(num_writes):
            call = "OperatorRegistry", "setEndpoint", [f"https://{number}"]
            tx.transactions.enqueue(LANE, *call, f"endpoint {number}")
    before, chance = chain.node.num_transactions(LANE), random.Random(num_writes)
    faults = SendingFaults(num_kills, 0.05)
    with (
        serving(RealNode(node.url), faults) as rpc,
        senders(rpc, str(folder / "deployment.json"), url) as start,
    ):
        running = [start(), start()]
        for left in sorted(chance.sample(range(1, num_writes), num_kills), reverse=True):
            while count(database, TransactionState.QUEUED) > left:
                time.sleep(0.002)  # the test's own time limit ends it
            time.sleep(chance.uniform(0, 0.05))  # anywhere in what a sender does
            kill(running.pop(chance.randrange(2)))
            running.append(start())
        while count(database, *SETTLED) < num_writes:
            chain.node.rpc.request("hardhat_mine", "0x1")
            time.sleep(0.1)
    with database.read() as tx:
        sent = tx.session.scalars(select(TransactionRow).order_by(TransactionRow.nonce)).all()
    assert Counter(row.state for row in sent) == {TransactionState.CONFIRMED: num_writes}
    assert [row.nonce for row in sent] == list(range(before, before + num_writes))
    assert chain.node.num_transactions(LANE) == before + num_writes
    written = [
        e.args["endpoint"] for e in chain.events(1, chain.head().number) if e.name == "EndpointChanged"
    ]
    assert sorted(written) == sorted(f"https://{number}" for number in range(num_writes))
    return faults.met


def test_killed_senders_behind_a_faulty_node_write_everything_once(
    chain: ChainClient, hardhat_node: LocalNode, database: Database, tmp_path: Path
) -> None:
    assert survive(chain, hardhat_node, database, tmp_path, num_writes=20, num_kills=3)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_a_thousand_writes_outlive_many_killed_senders(
    chain: ChainClient, hardhat_node: LocalNode, database: Database, tmp_path: Path
) -> None:
    met = survive(chain, hardhat_node, database, tmp_path, num_writes=1_000, num_kills=60)
    assert met == {*SendingFaults(0, 0)._kinds, "lost"}
