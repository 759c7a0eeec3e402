"""How much may be asked for in a minute: requests of everybody, tokens of answers.

Counted by the library `limits` in fixed windows, in the memory of this process: several API processes allow
that many times as much. Tokens are counted when their answer has ended, so that the answers under way when
the limit is reached go beyond it.
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
    from backend.domain.receipt import Receipt
    from backend.services.answers.answer import Answer
    from backend.settings import Settings

REQUESTS, TOKENS = "requests", "tokens"

Scopes = Mapping[str, str]
"""Who asks: the name of an API key (`key`), of its account (`wallet`), or of a stranger (`address`)."""


class RateLimitExceeded(DomainError):
    """More was asked for in this minute than may be; nothing was charged."""


@dataclass(frozen=True, slots=True)
class Window:
    """Where a minute's count of one kind stands for one scope."""

    kind: str
    scope: str
    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """As OpenAI's API names them; the time to the next window in its notation, such as `42s`."""
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.limit),
            f"x-ratelimit-remaining-{self.kind}": str(self.remaining),
            f"x-ratelimit-reset-{self.kind}": f"{self.reset_seconds}s",
        }

    def refusal(self) -> RateLimitExceeded:
        return RateLimitExceeded(
            f"This {self.scope} has used its {self.limit} {self.kind} of this minute; "
            f"try again in {self.reset_seconds} seconds.",
            details={
                "scope": self.scope,
                "kind": self.kind,
                "limit": self.limit,
                "retry_after_seconds": max(self.reset_seconds, 1),
            },
        )


class RateLimits:
    """Used from one event loop. A rate of 0 is none."""

    def __init__(self, settings: Settings) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        rates = {
            (REQUESTS, "key"): settings.key_requests_per_minute,
            (REQUESTS, "wallet"): settings.wallet_requests_per_minute,
            (REQUESTS, "address"): settings.address_requests_per_minute,
            (TOKENS, "key"): settings.key_tokens_per_minute,
            (TOKENS, "wallet"): settings.wallet_tokens_per_minute,
        }
        self._rates = {place: RateLimitItemPerMinute(rate) for place, rate in rates.items() if rate}
        self._counting: set[asyncio.Task[None]] = set()

    async def admit(self, request: Request, scopes: Scopes) -> None:
        """Count a request, once however often it is asked about. Raises RateLimitExceeded; the headers of the
        answer say how the caller stands in any case.
        """
        if getattr(request.state, "is_counted", False):
            return
        request.state.is_counted = True
        full = await self._count(REQUESTS, scopes, 1)
        request.state.headers = getattr(request.state, "headers", {}) | {
            name: value
            for kind in (REQUESTS, TOKENS)
            for name, value in _tightest(await self._windows(kind, scopes)).items()
        }
        if full:
            raise full[0].refusal()

    async def check_tokens(self, scopes: Scopes) -> None:
        """Raises RateLimitExceeded where no token is left."""
        for window in await self._windows(TOKENS, scopes):
            if not window.remaining:
                raise window.refusal()

    def count_tokens(self, scopes: Scopes, answer: Answer) -> None:
        """Those that an answer is charged for, once it has ended, whoever still reads it."""

        async def count() -> None:
            if (receipt := await answer.ended()) is not None:
                charged = receipt.signed.receipt
                _count(charged)
                await self._count(TOKENS, scopes, charged.prompt_tokens + charged.completion_tokens)

        task = asyncio.create_task(count())
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    async def _count(self, kind: str, scopes: Scopes, amount: int) -> list[Window]:
        """The windows that it did not fit into."""
        full = []
        for scope, rate in self._rates_of(kind, scopes):
            if not await self._limiter.hit(rate, kind, scope, scopes[scope], cost=amount):
                full.append(await self._window(kind, scope, scopes[scope], rate))
        return full

    async def _windows(self, kind: str, scopes: Scopes) -> list[Window]:
        rates = self._rates_of(kind, scopes)
        return [await self._window(kind, scope, scopes[scope], rate) for scope, rate in rates]

    async def _window(self, kind: str, scope: str, name: str, rate: RateLimitItem) -> Window:
        ends_at, remaining = await self._limiter.get_window_stats(rate, kind, scope, name)
        return Window(kind, scope, rate.amount, remaining, max(math.ceil(ends_at - time.time()), 0))

    def _rates_of(self, kind: str, scopes: Scopes) -> list[tuple[str, RateLimitItem]]:
        return [(scope, self._rates[kind, scope]) for scope in scopes if (kind, scope) in self._rates]


def _count(charged: Receipt) -> None:
    ANSWERS.inc()
    CHARGED_UNITS.inc(charged.charge)
    CHARGED_TOKENS.labels("prompt").inc(charged.prompt_tokens)
    CHARGED_TOKENS.labels("completion").inc(charged.completion_tokens)


def _tightest(windows: list[Window]) -> dict[str, str]:
    found = min(windows, key=lambda window: window.remaining, default=None)
    return found.headers() if found else {}
