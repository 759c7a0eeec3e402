"""Two API processes, as run by `loraledger serve`, on one PostgreSQL database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx

from backend.installation.installation import Installation
from benchmarks.api import market
from benchmarks.api.serving import serving

if TYPE_CHECKING:
    from pathlib import Path

RATE, NUM_REQUESTS = 40, 30


def test_a_limit_holds_across_api_processes(tmp_path: Path, postgres_url: str) -> None:
    home = tmp_path / "home"
    market.create_home(home)
    installation = Installation(market.build_settings(home, database_url=postgres_url))
    seeded = market.seed(installation, num_contributors=1)
    installation.close()
    headers = {"authorization": f"Bearer {seeded.payers[0].secret}"}
    rates = {"wallet_requests_per_minute": RATE}

    def statuses(port: int) -> list[int]:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as api:
            return [api.get("/v1/auth/me").status_code for _ in range(NUM_REQUESTS)]

    with (
        serving(installation, {"one": rates, "two": rates}, tokens_per_second=1000) as running,
        ThreadPoolExecutor() as clients,
    ):
        found = [status for group in clients.map(statuses, running.ports.values()) for status in group]
    assert sorted(found) == [200] * RATE + [429] * (2 * NUM_REQUESTS - RATE)
