"""Measures the indexer in events per second: fetched over HTTP, decoded, stored, projected, committed.

The node is a separate process that has the logs in memory. Indexer, RPC client and database are real.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import encode, interface
from backend.db.migrate import upgrade
from backend.domain.errors import Unavailable
from backend.domain.hashing import channel_id
from backend.installation.installation import Installation
from benchmarks.api import chain_events, market
from benchmarks.api.databases import databases
from benchmarks.api.figures import Row, Timed
from benchmarks.api.node import START, block_hash
from benchmarks.processes import start
from tools.labels import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import ChannelId
    from benchmarks.api.databases import Postgres, Sqlite

EVENTS_PER_BLOCK = 20
EVENTS_PER_SECOND = 4_000
"""Number of events generated per second of a run."""


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:
    """Events per second on each database. Each repeat indexes the same chain into an empty one."""
    num_blocks = max(int(seconds * EVENTS_PER_SECOND) // EVENTS_PER_BLOCK, 1)
    logs = folder / "logs"
    logs.write_text("\n".join(_blocks(num_blocks)))
    with _node(logs) as url, databases() as found:
        return [_measure(folder, one, url, num_blocks, repeats) for one in found]


def _measure(folder: Path, database: Sqlite | Postgres, url: str, num_blocks: int, repeats: int) -> Row:
    warm_up, *runs = [
        _run(folder / f"events{database.suffix} {number}", database, url) for number in range(repeats + 1)
    ]
    if {run.count for run in (warm_up, *runs)} != {num_blocks * EVENTS_PER_BLOCK}:
        raise AssertionError(f"not {num_blocks * EVENTS_PER_BLOCK} events: {[run.count for run in runs]}")
    method = (
        f"{num_blocks * EVENTS_PER_BLOCK} events of 11 kinds, {EVENTS_PER_BLOCK} per block, from a node on "
        f"loopback whose logs have block timestamps; {database.method}"
    )
    return Row.of(f"events_indexed{database.suffix}_s", method, runs)


def _run(home: Path, database: Sqlite | Postgres, url: str) -> Timed:
    market.create_home(home)
    settings = market.build_settings(home, rpc_url=url, confirmations=0, **database.settings(home.name))
    installation = Installation(settings)
    upgrade(installation.database.engine)
    try:
        with Timed.measured(database.cpu_seconds) as timed:
            installation.indexer.catch_up()
        with installation.database.read() as tx:
            timed.count = tx.event_log.num_events()
    finally:
        installation.close()
    return timed


@contextmanager
def _node(logs: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.api.node", str(logs)]
    with start(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            if not port:
                raise Unavailable("the benchmark's node exited before it listened")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _blocks(count: int) -> Iterator[str]:
    events = _events(random.Random(0))  # noqa: S311 - a fixed seed, so that runs are comparable
    for number in range(1, count + 1):
        logs = (_log(number, index, *next(events)) for index in range(EVENTS_PER_BLOCK))
        yield ",".join(json.dumps(log) for log in logs)


def _log(block: int, index: int, contract: str, name: str, args: dict[str, Any]) -> dict[str, Any]:
    entry = next(entry for entry in interface(contract).events.values() if entry.name == name)
    indexed = [p for p in entry.inputs if p["indexed"]]
    data = [p for p in entry.inputs if not p["indexed"]]
    topics = [entry.topic, *(encode([p], [args[p["name"]]], name) for p in indexed)]
    return {
        "address": some_account(contract),
        "topics": ["0x" + topic.hex() for topic in topics],
        "data": "0x" + encode(data, [args[p["name"]] for p in data], name).hex(),
        "blockNumber": hex(block),
        "blockHash": block_hash(block),
        "blockTimestamp": hex(START + block),
        "transactionHash": some_hash(f"transaction {block} {index}"),
        "transactionIndex": hex(index),
        "logIndex": hex(index),
        "removed": False,
    }


def _events(rng: random.Random) -> Iterator[chain_events.Event]:
    """Endless events of a market: new payers, contributions, and batches that collect from many channels."""
    operator, settlement = some_account("operator"), some_account("Settlement")
    channels: list[ChannelId] = []
    number = 0
    while True:
        number += 1
        payer = some_account(f"payer {number}")
        channels.append(channel_id(payer, operator, settlement))
        yield from chain_events.channel_opened(payer, channels[-1], operator, settlement, START)
        yield from (
            chain_events.contribution_recorded(number),
            chain_events.contribution_admitted(number),
            chain_events.contribution_reviewed(number),
            chain_events.earnings_claimed(operator, number),
        )
        for channel in rng.sample(channels, min(len(channels), 5)):
            yield chain_events.channel_collected(channel, number)
        if number % 20 == 0:
            yield chain_events.version_registered(chain_events.version_record(f"adapter-{number}", 1))
            yield from chain_events.batch_committed(operator, number)
