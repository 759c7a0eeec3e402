"""What the API adds to a token: from its sending by the engine to its reading by an HTTP client.

Three processes: an engine of a script, the API as `loraledger serve` runs it, and this one, which reads all
streams with bare sockets. Its own time counts as the API's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.api.market import Furnished, Paying

NUM_STREAMS, TOKENS_PER_SECOND = 50, 20
NUM_CONTRIBUTORS = 64
START_SECONDS = 60.0
_SENT_AT = re.compile(rb'"content":"(\d+) ')


@dataclass(slots=True)
class Heard:
    """Delays of all tokens in milliseconds; the API's CPU seconds, and what others took of the machine."""

    delays: list[float] = field(default_factory=list)
    api_cpu_seconds: float = 0.0
    other_cpu: float = 0.0

    def percentile(self, number: int) -> float:
        return quantiles(self.delays, n=100, method="inclusive")[number - 1]


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:
    """Delays with each stream in its own time, and with all in step, as a batching engine has them."""
    rows: list[Row] = []
    for name, is_lockstep in (("gateway", False), ("gateway_lockstep", True)):
        home = folder / name
        market.found(home)
        installation = Installation(market.settings(home, api_port=free_port()))
        furnished = market.furnish(installation, NUM_CONTRIBUTORS)
        installation.close()
        with _running(installation, is_lockstep=is_lockstep) as (api, engine):
            heard = [_listen(installation, furnished, seconds, api, engine) for _ in range(repeats)]
        rows += _rows(name, heard, seconds)
    return rows


def _rows(name: str, heard: Sequence[Heard], seconds: float) -> list[Row]:
    steps = "all in one step of the engine" if "lockstep" in name else "each in its own time"
    method = (
        f"{NUM_STREAMS} streams of {TOKENS_PER_SECOND} tokens/s for {seconds:g} s, {steps}; uvicorn and HTTP "
        "on loopback; from the engine's write to the client's read, the client's own time included"
    )
    busy = tuple(one.other_cpu for one in heard)
    cpu = [round(one.api_cpu_seconds / len(one.delays) * 1e6, 1) for one in heard]
    details = {"api_cpu_us_per_token": cpu, "tokens": [len(one.delays) for one in heard]}
    return [
        Row(f"{name}_p{p}_ms", method, tuple(one.percentile(p) for one in heard), busy, details)
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
        pids = []
        for command in (["backend.cli.main", "serve"], [*engine, *(["--lockstep"] if is_lockstep else [])]):
            process = subprocess.Popen(
                [sys.executable, "-m", *command], env=os.environ | environment, stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            pids.append(process.pid)
        yield pids[0], pids[1]


def _listen(installation: Installation, furnished: Furnished, seconds: float, api: int, engine: int) -> Heard:
    heard = Heard()
    asyncio.run(_until_ready(installation))
    before, api_before, engine_before = (Usage.now(pid) for pid in (os.getpid(), api, engine))
    asyncio.run(_streams(installation, furnished, seconds, heard))
    after, api_after, engine_after = (Usage.now(pid) for pid in (os.getpid(), api, engine))
    heard.api_cpu_seconds = api_after.process_seconds - api_before.process_seconds
    own = heard.api_cpu_seconds + engine_after.process_seconds - engine_before.process_seconds
    capacity = (after.at - before.at) * (os.cpu_count() or 1)
    heard.other_cpu = max(after.other_share_since(before) - own / capacity, 0.0)
    return heard


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


async def _streams(installation: Installation, furnished: Furnished, seconds: float, heard: Heard) -> None:
    async def one(number: int, paying: Paying) -> None:
        await asyncio.sleep(number / NUM_STREAMS / TOKENS_PER_SECOND)
        await _stream(installation, furnished.model, paying, int(seconds * TOKENS_PER_SECOND), heard)

    async with asyncio.TaskGroup() as tasks:
        for number, paying in enumerate(furnished.payers[:NUM_STREAMS]):
            tasks.create_task(one(number, paying))


async def _stream(
    installation: Installation, model: str, paying: Paying, num_tokens: int, heard: Heard
) -> None:
    settings = installation.settings
    reader, writer = await asyncio.open_connection(settings.api_host, settings.api_port)
    asked = {"model": model, "stream": True, "max_tokens": num_tokens}
    body = json.dumps(asked | {"messages": [{"role": "user", "content": "What time is it?"}]})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {paying.secret}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body).encode())
    count, event = 0, b""
    while b"[DONE]" not in event:
        event = await reader.readuntil(b"\n\n")
        if found := _SENT_AT.search(event):
            heard.delays.append((time.monotonic_ns() - int(found[1])) / 1e6)
            count += 1
    writer.close()
    if count != num_tokens:
        raise AssertionError(f"{count} of {num_tokens} tokens arrived: {event!r}")
