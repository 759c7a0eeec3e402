"""How many events a second the indexer takes in: asked over HTTP, decoded, kept, projected, on disk.

The node is a process that has the logs in memory; indexer, its client and the database are the real ones.
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
from benchmarks.api import market, told
from benchmarks.api.figures import Row, Timed
from benchmarks.api.node import START, block_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import ChannelId

EVENTS_PER_BLOCK = 20
EVENTS_PER_SECOND = 4_000
"""How many are made for a second of a run."""


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:
    """Events a second; each repeat reads the same chain into an empty database."""
    num_blocks = max(int(seconds * EVENTS_PER_SECOND) // EVENTS_PER_BLOCK, 1)
    logs = folder / "logs"
    logs.write_text("\n".join(_blocks(num_blocks)))
    with _node(logs) as url:
        _run(folder / "warm", url)
        runs = [_run(folder / f"run {number}", url) for number in range(repeats)]
    if {run.count for run in runs} != {num_blocks * EVENTS_PER_BLOCK}:
        raise AssertionError(f"not {num_blocks * EVENTS_PER_BLOCK} events: {[run.count for run in runs]}")
    method = (
        f"{num_blocks * EVENTS_PER_BLOCK} events of 11 kinds, {EVENTS_PER_BLOCK} a block, from a node on "
        "loopback whose logs tell their block's time; SQLite on disk (synchronous=FULL)"
    )
    return [Row.of("events_indexed_s", method, runs)]


def _run(home: Path, url: str) -> Timed:
    market.found(home)
    installation = Installation(market.settings(home, rpc_url=url, confirmations=0))
    upgrade(installation.database.engine)
    try:
        with Timed.measured() as timed:
            installation.indexer.catch_up()
        with installation.database.read() as tx:
            timed.count = tx.event_log.num_events()
    finally:
        installation.close()
    return timed


@contextmanager
def _node(logs: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.api.node", str(logs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            if not port:
                raise Unavailable("the benchmark's node ended before it listened")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _blocks(count: int) -> Iterator[str]:
    story = _story(random.Random(0))  # noqa: S311 - a fixed choice, so that runs compare
    for number in range(1, count + 1):
        logs = (_log(number, index, *next(story)) for index in range(EVENTS_PER_BLOCK))
        yield ",".join(json.dumps(log) for log in logs)


def _log(block: int, index: int, contract: str, name: str, args: dict[str, Any]) -> dict[str, Any]:
    entry = next(entry for entry in interface(contract).events.values() if entry.name == name)
    indexed = [p for p in entry.inputs if p["indexed"]]
    data = [p for p in entry.inputs if not p["indexed"]]
    topics = [entry.topic, *(encode([p], [args[p["name"]]], name) for p in indexed)]
    return {
        "address": told.some_account(contract),
        "topics": ["0x" + topic.hex() for topic in topics],
        "data": "0x" + encode(data, [args[p["name"]] for p in data], name).hex(),
        "blockNumber": hex(block),
        "blockHash": block_hash(block),
        "blockTimestamp": hex(START + block),
        "transactionHash": told.some_hash(f"transaction {block} {index}"),
        "transactionIndex": hex(index),
        "logIndex": hex(index),
        "removed": False,
    }


def _story(chance: random.Random) -> Iterator[told.Told]:
    """A market where payers come, data is contributed, and batches collect from many channels."""
    operator, settlement = told.some_account("operator"), told.some_account("Settlement")
    channels: list[ChannelId] = []
    number = 0
    while True:
        number += 1
        payer = told.some_account(f"payer {number}")
        channels.append(channel_id(payer, operator, settlement))
        yield from told.opened(payer, channels[-1], operator, settlement, START)
        yield from (told.contributed(number), told.reviewed(number), told.claimed(operator, number))
        for channel in chance.sample(channels, min(len(channels), 5)):
            yield told.collected(channel, number)
        if number % 20 == 0:
            yield told.registered(told.version(f"adapter-{number}", 1))
            yield from told.committed(operator, number)
