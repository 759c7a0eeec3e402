"""Rate limits per minute: requests by key, wallet, address or peer, and tokens by key or wallet.

The API processes of a PostgreSQL database count together; on SQLite each counts by itself.
Tokens are counted when an answer ends, so answers that are in progress when the limit is reached exceed it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from backend.domain.errors import DomainError
from backend.domain.rate_limits import Count
from backend.metrics import ANSWERS, CHARGED_TOKENS, CHARGED_UNITS

if TYPE_CHECKING:
    from backend.domain.receipt import Charge, Receipt
    from backend.services.accounts.rate_counts import RateCounts
    from backend.services.answers.answer import Answer
    from backend.settings import Settings

log = logging.getLogger(__name__)

REQUESTS, TOKENS = "requests", "tokens"
REQUEST_BYTES = 64 << 10
"""A body counts as a request for each of these, because reading and validating it holds up all others."""
PEER_FACTOR = 10
"""Content has this many times the limit of an address: a watcher that catches up reads thousands of batches,
and takes those that are refused for withheld.
"""
MAX_KEY_CHARS = 200
"""Ids, accounts and IP addresses are shorter. What a proxy passes on as an address may be anything."""
CLOSE_SECONDS = 2.0

Scopes = Mapping[str, str]
"""Identities that are limited: the API key's id (`key`), its account (`wallet`), or the IP address
(`address`; `peer` where content is fetched).
"""


class RateLimitExceeded(DomainError):
    """The requests or tokens of this minute exceed the limit; nothing was charged."""


@dataclass(frozen=True, slots=True)
class Window:
    """Count of one kind in the current minute, for one scope."""

    kind: str
    scope: str
    limit: int
    count: Count

    @property
    def remaining(self) -> int:
        return max(self.limit - self.count.total, 0)

    @property
    def is_exceeded(self) -> bool:
        return self.count.total > self.limit

    @property
    def reset_seconds(self) -> int:
        return math.ceil(self.count.seconds_left)

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

    def __init__(self, settings: Settings, counts: RateCounts) -> None:
        self._counts = counts
        rates = {
            (REQUESTS, "key"): settings.key_requests_per_minute,
            (REQUESTS, "wallet"): settings.wallet_requests_per_minute,
            (REQUESTS, "address"): settings.address_requests_per_minute,
            (REQUESTS, "peer"): PEER_FACTOR * settings.address_requests_per_minute,
            (TOKENS, "key"): settings.key_tokens_per_minute,
            (TOKENS, "wallet"): settings.wallet_tokens_per_minute,
        }
        self._rates = {kind_and_scope: rate for kind_and_scope, rate in rates.items() if rate}
        self._counting: set[asyncio.Task[None]] = set()

    async def admit(self, request: Request, scopes: Scopes) -> None:
        """Count a request once, even if called again for it, and set the response's rate limit headers.
        A large body counts as several requests. Uploads count as one: they are read once they are admitted.
        Raises RateLimitExceeded and DatabaseUnavailable.
        """
        if hasattr(request.state, "rate_windows"):
            return
        num_requests = max(1, math.ceil(getattr(request.state, "body_bytes", 0) / REQUEST_BYTES))
        windows = request.state.rate_windows = await self._count({REQUESTS: num_requests, TOKENS: 0}, scopes)
        request.state.headers = getattr(request.state, "headers", {}) | {
            name: value
            for kind in (REQUESTS, TOKENS)
            for name, value in _tightest(window for window in windows if window.kind == kind).items()
        }
        for window in windows:
            if window.kind == REQUESTS and window.is_exceeded:
                raise window.refusal()

    def check_tokens(self, request: Request) -> None:
        """Raises RateLimitExceeded if the caller had no tokens left when the request was admitted."""
        for window in request.state.rate_windows:
            if window.kind == TOKENS and not window.remaining:
                raise window.refusal()

    def count_tokens(self, scopes: Scopes, answer: Answer) -> None:
        """Count the tokens that an answer is charged for, once it ends, even if the client disconnects."""

        async def count() -> None:
            if (charged := await answer.ended()) is None:
                return
            interval = charged.interval
            _record(interval)
            num_tokens = interval.prompt_tokens + interval.completion_tokens
            try:
                await self._count({TOKENS: num_tokens}, scopes)
            except DomainError as error:  # the answer is charged all the same
                log.warning("%d tokens of an answer count towards no rate limit: %s", num_tokens, error)

        task = asyncio.create_task(count())
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    async def close(self) -> None:
        """Wait until the tokens of the answers that have ended are counted."""
        if self._counting:
            await asyncio.wait(set(self._counting), timeout=CLOSE_SECONDS)

    async def _count(self, amounts: Mapping[str, int], scopes: Scopes) -> list[Window]:
        """Add the amount of each kind to the counts of these scopes that are limited, at most the limit: with
        nothing else counted, a single request is always admitted.
        """
        limited = [
            (_key(kind, scope, scopes[scope]), kind, scope, self._rates[kind, scope])
            for kind in amounts
            for scope in scopes
            if (kind, scope) in self._rates
        ]
        if not limited:
            return []
        counts = await self._counts.add({key: min(amounts[kind], rate) for key, kind, _, rate in limited})
        return [Window(kind, scope, limit, counts[key]) for key, kind, scope, limit in limited]


def _key(kind: str, scope: str, name: str) -> str:
    return f"{kind} {scope} {name}"[:MAX_KEY_CHARS]


def _record(charged: Receipt | Charge) -> None:
    ANSWERS.inc()
    CHARGED_UNITS.inc(charged.charge)
    CHARGED_TOKENS.labels("prompt").inc(charged.prompt_tokens)
    CHARGED_TOKENS.labels("completion").inc(charged.completion_tokens)


def _tightest(windows: Iterable[Window]) -> dict[str, str]:
    found = min(windows, key=lambda window: window.remaining, default=None)
    return found.headers() if found else {}
