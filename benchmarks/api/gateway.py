"""Measures the latency that the API adds to a token, from the engine's write to the HTTP client's read.

Three processes: a fake engine, the API as run by `loraledger serve`, and this one, which reads all streams
with plain sockets. Its own time is included.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.installation.installation import Installation
from benchmarks.api import market
from benchmarks.api.figures import Row, percentile
from benchmarks.api.serving import serving
from benchmarks.engine.machine import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.api.market import ApiPayer, SeededMarket
    from benchmarks.api.serving import Running

NUM_STREAMS, TOKENS_PER_SECOND = 50, 20
NUM_CONTRIBUTORS = 64
API = "api"
_SENT_AT = re.compile(rb'"content":"(\d+) ')


@dataclass(slots=True)
class TokenDelays:
    """Delays of all tokens in milliseconds, CPU seconds of the API, and CPU share of other processes."""

    delays: list[float] = field(default_factory=list)
    api_cpu_seconds: float = 0.0
    other_cpu: float = 0.0


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:
    """Delays with independent streams, and with all streams in lockstep, as from a batching engine."""
    rows: list[Row] = []
    for name, is_lockstep in (("gateway", False), ("gateway_lockstep", True)):
        home = folder / name
        market.create_home(home)
        installation = Installation(market.build_settings(home))
        seeded = market.seed(installation, NUM_CONTRIBUTORS)
        installation.close()
        with serving(installation, {API: {}}, TOKENS_PER_SECOND, is_lockstep=is_lockstep) as running:
            measured = [_measure_streams(running, seeded, seconds) for _ in range(repeats)]
        rows += _rows(name, measured, seconds)
    return rows


def _rows(name: str, measured: Sequence[TokenDelays], seconds: float) -> list[Row]:
    steps = "all in one step of the engine" if "lockstep" in name else "independent of each other"
    method = (
        f"{NUM_STREAMS} streams of {TOKENS_PER_SECOND} tokens/s for {seconds:g} s, {steps}; uvicorn and HTTP "
        "on loopback; from the engine's write to the client's read, the client's own time included"
    )
    busy = tuple(one.other_cpu for one in measured)
    cpu = [round(one.api_cpu_seconds / len(one.delays) * 1e6, 1) for one in measured]
    details = {"api_cpu_us_per_token": cpu, "tokens": [len(one.delays) for one in measured]}
    return [
        Row(f"{name}_p{p}_ms", method, tuple(percentile(one.delays, p) for one in measured), busy, details)
        for p in (50, 99)
    ]


def _measure_streams(running: Running, seeded: SeededMarket, seconds: float) -> TokenDelays:
    found = TokenDelays()
    processes = os.getpid(), running.pids[API], running.engine
    before, api_before, engine_before = map(Usage.now, processes)
    asyncio.run(_streams(running.ports[API], seeded, seconds, found))
    after, api_after, engine_after = map(Usage.now, processes)
    found.api_cpu_seconds = api_after.process_seconds - api_before.process_seconds
    own = found.api_cpu_seconds + engine_after.process_seconds - engine_before.process_seconds
    capacity = (after.at - before.at) * (os.cpu_count() or 1)
    found.other_cpu = max(after.other_share_since(before) - own / capacity, 0.0)
    return found


async def _streams(port: int, seeded: SeededMarket, seconds: float, found: TokenDelays) -> None:
    async def one(number: int, payer: ApiPayer) -> None:
        await asyncio.sleep(number / NUM_STREAMS / TOKENS_PER_SECOND)
        await _stream(port, seeded.model, payer, int(seconds * TOKENS_PER_SECOND), found)

    async with asyncio.TaskGroup() as tasks:
        for number, payer in enumerate(seeded.payers[:NUM_STREAMS]):
            tasks.create_task(one(number, payer))


async def _stream(port: int, model: str, payer: ApiPayer, num_tokens: int, found: TokenDelays) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = {"model": model, "stream": True, "max_tokens": num_tokens}
    body = json.dumps(asked | {"messages": [{"role": "user", "content": "What time is it?"}]})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {payer.secret}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body).encode())
    count, event = 0, b""
    while b"[DONE]" not in event:
        event = await reader.readuntil(b"\n\n")
        if sent := _SENT_AT.search(event):
            found.delays.append((time.monotonic_ns() - int(sent[1])) / 1e6)
            count += 1
    writer.close()
    if count != num_tokens:
        raise AssertionError(f"{count} of {num_tokens} tokens arrived: {event!r}")
