"""Killed processes resume from the database."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.chain.sending.sender import Sender
from backend.deployment.deployment_file import save_deployment
from backend.domain.transactions import TransactionState
from tests.support.chain_events import state_hash
from tests.support.databases import chain_database

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.db.unit_of_work import Database

OPERATOR = local_account(1)
CONFIRMATIONS = 1
NUM_TRANSACTIONS, NUM_KILLS = 60, 8
FOLLOW = """
import sys, threading
from pathlib import Path
from backend.chain.client import ChainClient
from backend.deployment.deployment_file import load_deployment
from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.chain.sending.sender import Sender
from backend.db.unit_of_work import Database

url, file, database_url = sys.argv[1:]
client, database = ChainClient.connect(url, load_deployment(Path(file))), Database.open(database_url)
key = local_account(1)
sender = Sender(client, database.send_queue, {key.account: key}.get, 1)
indexer = Indexer(client, database.event_log, client.deployment, 1)
stop = threading.Event()
threading.Thread(target=indexer.run, args=(stop, 0.01)).start()
print("up", flush=True)
sender.run(stop, 0.01)
"""


@pytest.mark.deep
def test_sender_and_indexer_killed_at_random_lose_and_repeat_nothing(
    chain: ChainClient, hardhat_node: LocalNode, database: Database, tmp_path: Path
) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    file = tmp_path / "deployment.json"
    save_deployment(chain.deployment, file)
    command = [sys.executable, "-c", FOLLOW, hardhat_node.url, str(file), url]
    with database.begin() as tx:
        ids = [
            tx.transactions.enqueue(
                OPERATOR.account, "OperatorRegistry", "setEndpoint", [f"https://{i}"], f"endpoint {i}"
            )
            for i in range(NUM_TRANSACTIONS)
        ]
    seed = random.Random(7)
    for _ in range(NUM_KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            time.sleep(seed.random() / 4)
            process.kill()
    sender = Sender(chain, database.send_queue, {OPERATOR.account: OPERATOR}.get, CONFIRMATIONS)
    for _ in range(3):
        sender.run_once()
        chain.node.rpc.request("hardhat_mine", "0x2")
    Indexer(chain, database.event_log, chain.deployment, CONFIRMATIONS).catch_up()
    with database.read() as tx:
        sent = [tx.transactions.get(i) for i in ids]
        state = tx.event_log.num_events(), state_hash(tx)
    assert {t.state for t in sent} == {TransactionState.CONFIRMED}
    events = [e for e in chain.events(1, chain.head().number) if e.name == "EndpointChanged"]
    assert [e.args["endpoint"] for e in events] == [f"https://{i}" for i in range(NUM_TRANSACTIONS)]
    with chain_database() as fresh:
        Indexer(chain, fresh.event_log, chain.deployment, CONFIRMATIONS).catch_up()
        with fresh.read() as tx:
            assert (tx.event_log.num_events(), state_hash(tx)) == state
