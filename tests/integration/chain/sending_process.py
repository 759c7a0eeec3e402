"""Forks senders that a test kills: `python sending_process.py RPC_URL DEPLOYMENT DATABASE_URL`.

Each line on standard input forks a sender and prints its process id. Forking is fast, as everything is
imported once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from backend.chain.client import ChainClient
from backend.chain.keys import local_account
from backend.chain.node import Node
from backend.chain.rpc import Rpc
from backend.chain.sending.sender import Sender
from backend.db.unit_of_work import Database
from backend.deployment.deployment_file import load_deployment

CONFIRMATIONS, STUCK_BLOCKS = 2, 20


def main(url: str, file: str, database_url: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps killed children
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            send(url, file, database_url)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


def send(url: str, file: str, database_url: str) -> None:
    """Run a sender until it is killed."""
    key = local_account(1)
    client = ChainClient(Node(Rpc(url, retries=2)), load_deployment(Path(file)))
    queue = Database.open(database_url).send_queue
    sender = Sender(client, queue, {key.account: key}.get, CONFIRMATIONS, STUCK_BLOCKS)
    while True:
        try:
            sender.run(threading.Event(), 0.01)
        except Exception as error:  # noqa: BLE001 - a supervisor would restart it
            sys.stderr.write(f"{type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
