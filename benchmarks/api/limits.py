"""Measures what rate limits cost on PostgreSQL: the same requests to an API with limits and to one without.

Processes: PostgreSQL, a fake engine, two APIs as run by `loraledger serve`, and this one with the clients.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from backend.installation.installation import Installation
from benchmarks.api import market
from benchmarks.api.databases import postgres
from benchmarks.api.figures import Row
from benchmarks.api.serving import serving
from benchmarks.engine.machine import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.api.databases import Postgres
    from benchmarks.api.market import ApiPayer
    from benchmarks.api.serving import Running

NUM_CLIENTS = 16
NUM_CONTRIBUTORS = 8
TOKENS_PER_SECOND = 1000
OFF, ON = "off", "on"
LIMITS = [f"{scope}_{kind}_per_minute" for scope in ("key", "wallet") for kind in ("requests", "tokens")]


@dataclass(slots=True)
class Load:
    """One run: seconds from each request to its response, and processor seconds."""

    delays: list[float] = field(default_factory=list)
    wall_seconds: float = 0.0
    api_seconds: float = 0.0
    database_seconds: float = 0.0
    other_cpu: float = 0.0

    @property
    def api_us(self) -> float:
        return self.api_seconds / len(self.delays) * 1e6

    @property
    def database_us(self) -> float:
        return self.database_seconds / len(self.delays) * 1e6


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:
    """Processor time that limits add to the cheapest request, and to a paid answer of one token."""
    home = folder / "limits"
    market.create_home(home)
    rows = []
    with postgres() as database:
        installation = Installation(market.build_settings(home, database_url=database.url))
        seeded = market.seed(installation, NUM_CONTRIBUTORS)
        installation.close()
        payers, answer = seeded.payers[:NUM_CLIENTS], {"model": seeded.model, "prompt": "?", "max_tokens": 1}
        apis = {OFF: dict.fromkeys(LIMITS, 0), ON: dict.fromkeys(LIMITS, 10**9)}
        with serving(installation, apis, TOKENS_PER_SECOND) as running:
            for name, path, body in (
                ("request", "GET /v1/auth/me", ""),
                ("answer", "POST /v1/completions", json.dumps(answer)),
            ):
                requests = [_bytes(path, body, payer) for payer in payers]
                rows.append(_row(name, path, _loads(running, database, requests, seconds, repeats), seconds))
    return rows


def _row(name: str, path: str, loads: Mapping[str, Sequence[Load]], seconds: float) -> Row:
    pairs = list(zip(loads[OFF], loads[ON], strict=True))
    method = (
        f"{path} by {NUM_CLIENTS} clients in a closed loop for {seconds:g} s, each with a key of its own; "
        "processor time of API and PostgreSQL for a request with limits of key and wallet, less that without "
        "limits, in turns; a fake engine"
    )
    details: dict[str, Any] = {}
    for limits, runs in loads.items():
        details |= {
            f"{limits}_api_us": [round(run.api_us, 1) for run in runs],
            f"{limits}_database_us": [round(run.database_us, 1) for run in runs],
            f"{limits}_requests_s": [round(len(run.delays) / run.wall_seconds, 1) for run in runs],
            f"{limits}_p50_ms": [round(median(run.delays) * 1e3, 2) for run in runs],
        }
    added = tuple(on.api_us + on.database_us - off.api_us - off.database_us for off, on in pairs)
    return Row(f"limits_{name}_us", method, added, tuple(on.other_cpu for _, on in pairs), details)


def _loads(
    running: Running, database: Postgres, requests: Sequence[bytes], seconds: float, repeats: int
) -> dict[str, list[Load]]:
    """Runs by their limits."""
    loads: dict[str, list[Load]] = {OFF: [], ON: []}
    for number in range(repeats + 1):
        for limits in (OFF, ON) if number % 2 else (ON, OFF):
            pids = running.pids[limits], running.engine
            load = _load(running.ports[limits], pids, database, requests, seconds)
            if number:  # the first repeat is a warm-up
                loads[limits].append(load)
    return loads


def _load(
    port: int, pids: tuple[int, int], database: Postgres, requests: Sequence[bytes], seconds: float
) -> Load:
    def used() -> tuple[float, float, float]:
        api, engine = map(_seconds, pids)
        return api, engine, database.cpu_seconds()

    load, before, used_before = Load(), Usage.now(os.getpid()), used()
    asyncio.run(_run_clients(port, requests, before.at + seconds, load.delays))
    after = Usage.now(os.getpid())
    spent = [total - before_run for total, before_run in zip(used(), used_before, strict=True)]
    load.api_seconds, _, load.database_seconds = spent
    load.wall_seconds = after.at - before.at
    capacity = load.wall_seconds * (os.cpu_count() or 1)
    load.other_cpu = max(after.other_share_since(before) - sum(spent) / capacity, 0.0)
    return load


async def _run_clients(port: int, requests: Sequence[bytes], end: float, delays: list[float]) -> None:
    async def client(request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (asked_at := time.monotonic()) < end:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            delays.append(time.monotonic() - asked_at)
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise AssertionError(f"a request failed: {head!r} {body!r}")
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for request in requests:
            tasks.create_task(client(request))


def _bytes(path: str, body: str, payer: ApiPayer) -> bytes:
    return (
        f"{path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {payer.secret}\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _seconds(pid: int) -> float:
    return Usage.now(pid).process_seconds
