"""Admits requests of one wallet at once: `python counting_process.py DATABASE_URL RATE NUMBER`.

Waits for a line on standard input, and prints how many were admitted.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from starlette.requests import Request

from backend.api.rate_limits import RateLimitExceeded, RateLimits
from backend.db.unit_of_work import Database
from backend.services.accounts.rate_counts import SharedCounts
from backend.settings import Settings


async def admitted(limits: RateLimits, number: int) -> int:
    async def admit() -> int:
        try:
            await limits.admit(Request({"type": "http", "state": {}}), {"wallet": "0x1", "key": "k"})
        except RateLimitExceeded:
            return 0
        return 1

    return sum(await asyncio.gather(*(admit() for _ in range(number))))


def main(url: str, rate: int, number: int) -> None:
    limits = RateLimits(Settings(wallet_requests_per_minute=rate), SharedCounts(Database.open(url)))
    say("ready")
    sys.stdin.readline()
    say(str(asyncio.run(admitted(limits, number))))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
