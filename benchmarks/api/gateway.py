"""Measures the latency that the API adds to a token, from the engine's write to the HTTP client's read.

Three processes: a fake engine, the API as run by `loraledger serve`, and this one, which reads all streams
with plain sockets. Its own time is included.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import TYPE_CHECKING

from backend.chain.local_node import free_port
from backend.domain.errors import Unavailable
from backend.installation.installation import Installation
from benchmarks.api import market
from benchmarks.api.figures import Row
from benchmarks.engine.machine import Usage
from benchmarks.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.api.market import ApiPayer, SeededMarket

NUM_STREAMS, TOKENS_PER_SECOND = 50, 20
NUM_CONTRIBUTORS = 64
START_SECONDS = 120.0
_SENT_AT = re.compile(rb'"content":"(\d+) ')


@dataclass(slots=True)
class TokenDelays:
    """Delays of all tokens in milliseconds, CPU seconds of the API, and CPU share of other processes."""

    delays: list[float] = field(default_factory=list)
    api_cpu_seconds: float = 0.0
    other_cpu: float = 0.0

    def percentile(self, number: int) -> float:
        return quantiles(self.delays, n=100, method="inclusive")[number - 1]


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:
    """Delays with independent streams, and with all streams in lockstep, as from a batching engine."""
    rows: list[Row] = []
    for name, is_lockstep in (("gateway", False), ("gateway_lockstep", True)):
        home = folder / name
        market.create_home(home)
        installation = Installation(market.build_settings(home, api_port=free_port()))
        seeded = market.seed(installation, NUM_CONTRIBUTORS)
        installation.close()
        with _running(installation, is_lockstep=is_lockstep) as (api, engine):
            measured = [_measure_streams(installation, seeded, seconds, api, engine) for _ in range(repeats)]
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
        Row(f"{name}_p{p}_ms", method, tuple(one.percentile(p) for one in measured), busy, details)
        for p in (50, 99)
    ]


@contextmanager
def _running(installation: Installation, *, is_lockstep: bool) -> Iterator[tuple[int, int]]:
    """Process ids of API and engine."""
    settings = installation.settings
    settings.engine_socket.parent.mkdir(parents=True)
    engine = ["benchmarks.api.engine", str(settings.engine_socket), str(TOKENS_PER_SECOND)]
    names = ("home", "api_port", "max_lag_seconds")
    environment = {f"LORALEDGER_{name.upper()}": str(getattr(settings, name)) for name in names}
    with ExitStack() as stack, (settings.home / "log").open("wb") as log:
        modules = (["backend.cli.main", "serve"], [*engine, *(["--lockstep"] if is_lockstep else [])])
        commands = [[sys.executable, "-m", *module] for module in modules]
        api, fake = [stack.enter_context(running(command, log, environment)) for command in commands]
        yield api, fake


def _measure_streams(
    installation: Installation, seeded: SeededMarket, seconds: float, api: int, engine: int
) -> TokenDelays:
    found = TokenDelays()
    asyncio.run(_until_ready(installation))
    before, api_before, engine_before = (Usage.now(pid) for pid in (os.getpid(), api, engine))
    asyncio.run(_streams(installation, seeded, seconds, found))
    after, api_after, engine_after = (Usage.now(pid) for pid in (os.getpid(), api, engine))
    found.api_cpu_seconds = api_after.process_seconds - api_before.process_seconds
    own = found.api_cpu_seconds + engine_after.process_seconds - engine_before.process_seconds
    capacity = (after.at - before.at) * (os.cpu_count() or 1)
    found.other_cpu = max(after.other_share_since(before) - own / capacity, 0.0)
    return found


async def _until_ready(installation: Installation) -> None:
    settings = installation.settings
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            for connection in (
                await asyncio.open_connection(settings.api_host, settings.api_port),
                await asyncio.open_unix_connection(settings.engine_socket),
            ):
                connection[1].close()
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise Unavailable((settings.home / "log").read_text() or "API and engine did not start")


async def _streams(
    installation: Installation, seeded: SeededMarket, seconds: float, found: TokenDelays
) -> None:
    async def one(number: int, payer: ApiPayer) -> None:
        await asyncio.sleep(number / NUM_STREAMS / TOKENS_PER_SECOND)
        await _stream(installation, seeded.model, payer, int(seconds * TOKENS_PER_SECOND), found)

    async with asyncio.TaskGroup() as tasks:
        for number, payer in enumerate(seeded.payers[:NUM_STREAMS]):
            tasks.create_task(one(number, payer))


async def _stream(
    installation: Installation, model: str, payer: ApiPayer, num_tokens: int, found: TokenDelays
) -> None:
    settings = installation.settings
    reader, writer = await asyncio.open_connection(settings.api_host, settings.api_port)
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
