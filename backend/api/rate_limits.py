"""Rate limits per minute: requests by key, wallet or address, and tokens by key or wallet.

The library `limits` counts in fixed windows in this process's memory: N API processes allow N times the rate.
Tokens are counted when an answer ends, so answers that are in progress when the limit is reached exceed it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.requests import Request

from backend.domain.errors import DomainError
from backend.metrics import ANSWERS, CHARGED_TOKENS, CHARGED_UNITS

if TYPE_CHECKING:
    from backend.domain.receipt import Charge, Receipt
    from backend.services.answers.answer import Answer
    from backend.settings import Settings

REQUESTS, TOKENS = "requests", "tokens"

Scopes = Mapping[str, str]
"""Identities that are limited: the API key's id (`key`), its account (`wallet`), or the IP address
(`address`).
"""


class RateLimitExceeded(DomainError):
    """The requests or tokens of this minute exceed the limit; nothing was charged."""


@dataclass(frozen=True, slots=True)
class Window:
    """Count of one kind in the current minute, for one scope."""

    kind: str
    scope: str
    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """OpenAI's header names; the time to the next window in its notation, such as `42s`."""
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.limit),
            f"x-ratelimit-remaining-{self.kind}": str(self.remaining),
            f"x-ratelimit-reset-{self.kind}": f"{self.reset_seconds}s",
        }

    def refusal(self) -> RateLimitExceeded:
        return RateLimitExceeded(
            f"This {self.scope} has used its limit of {self.limit} {self.kind} per minute; "
            f"try again in {self.reset_seconds} seconds.",
            details={
                "scope": self.scope,
                "kind": self.kind,
                "limit": self.limit,
                "retry_after_seconds": max(self.reset_seconds, 1),
            },
        )


class RateLimits:
    """Used from one event loop. A rate of 0 disables the limit."""

    def __init__(self, settings: Settings) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        rates = {
            (REQUESTS, "key"): settings.key_requests_per_minute,
            (REQUESTS, "wallet"): settings.wallet_requests_per_minute,
            (REQUESTS, "address"): settings.address_requests_per_minute,
            (TOKENS, "key"): settings.key_tokens_per_minute,
            (TOKENS, "wallet"): settings.wallet_tokens_per_minute,
        }
        self._rates = {
            kind_and_scope: RateLimitItemPerMinute(rate) for kind_and_scope, rate in rates.items() if rate
        }
        self._counting: set[asyncio.Task[None]] = set()

    async def admit(self, request: Request, scopes: Scopes) -> None:
        """Count a request once, even if called again for it, and set the response's rate limit headers.
        Raises RateLimitExceeded.
        """
        if getattr(request.state, "is_counted", False):
            return
        request.state.is_counted = True
        exceeded = await self._count(REQUESTS, scopes, 1)
        request.state.headers = getattr(request.state, "headers", {}) | {
            name: value
            for kind in (REQUESTS, TOKENS)
            for name, value in _tightest(await self._windows(kind, scopes)).items()
        }
        if exceeded:
            raise exceeded[0].refusal()

    async def check_tokens(self, scopes: Scopes) -> None:
        """Raises RateLimitExceeded if no tokens are left."""
        for window in await self._windows(TOKENS, scopes):
            if not window.remaining:
                raise window.refusal()

    def count_tokens(self, scopes: Scopes, answer: Answer) -> None:
        """Count the tokens that an answer is charged for, once it ends, even if the client disconnects."""

        async def count() -> None:
            if (charged := await answer.ended()) is not None:
                interval = charged.interval
                _count(interval)
                await self._count(TOKENS, scopes, interval.prompt_tokens + interval.completion_tokens)

        task = asyncio.create_task(count())
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    async def _count(self, kind: str, scopes: Scopes, amount: int) -> list[Window]:
        """Returns the windows that are exceeded."""
        exceeded = []
        for scope, rate in self._rates_of(kind, scopes):
            if not await self._limiter.hit(rate, kind, scope, scopes[scope], cost=amount):
                exceeded.append(await self._window(kind, scope, scopes[scope], rate))
        return exceeded

    async def _windows(self, kind: str, scopes: Scopes) -> list[Window]:
        rates = self._rates_of(kind, scopes)
        return [await self._window(kind, scope, scopes[scope], rate) for scope, rate in rates]

    async def _window(self, kind: str, scope: str, name: str, rate: RateLimitItem) -> Window:
        ends_at, remaining = await self._limiter.get_window_stats(rate, kind, scope, name)
        return Window(kind, scope, rate.amount, remaining, max(math.ceil(ends_at - time.time()), 0))

    def _rates_of(self, kind: str, scopes: Scopes) -> list[tuple[str, RateLimitItem]]:
        return [(scope, self._rates[kind, scope]) for scope in scopes if (kind, scope) in self._rates]


def _count(charged: Receipt | Charge) -> None:
    ANSWERS.inc()
    CHARGED_UNITS.inc(charged.charge)
    CHARGED_TOKENS.labels("prompt").inc(charged.prompt_tokens)
    CHARGED_TOKENS.labels("completion").inc(charged.completion_tokens)


def _tightest(windows: list[Window]) -> dict[str, str]:
    found = min(windows, key=lambda window: window.remaining, default=None)
    return found.headers() if found else {}
