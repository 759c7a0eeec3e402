"""Port for requests to untrusted URLs: endpoints that other operators publish on the chain, and webhooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Unreachable(Unavailable):
    """An untrusted URL gave no usable answer."""


class UnexpectedStatus(Unreachable):
    """The server answered with another status than 200, `details["status"]`."""


class AddressRefused(Unreachable):
    """An untrusted URL is malformed, or its host has a private address. It was not called."""


@dataclass(frozen=True, slots=True)
class Posted:
    """What a server answered to `post`."""

    status: int
    retry_after: int | None = None
    """Seconds that it asks to wait (`Retry-After`)."""


class OutboundHttp(Protocol):
    """The only HTTP client for untrusted URLs. Response bodies are untrusted too."""

    def get(
        self, url: str, *, accept: str, max_bytes: int, seconds: float, min_rate: int = 0
    ) -> Iterator[bytes]:
        """Stream the body of a 200. The request is sent when the first chunk is requested.

        Errors: `AddressRefused`; `UnexpectedStatus`, also for redirects; `Unreachable`, also if the body
        exceeds `max_bytes`, if name resolution and transfer together take longer than `seconds`, or if the
        body falls short of `min_rate` bytes per second by more than a start of a few seconds.
        """
        ...

    def post(self, url: str, *, body: bytes, headers: Mapping[str, str], seconds: float) -> Posted:
        """Send the body, and return the status of the answer, whose body is not read. Redirects are answers.

        Errors: `AddressRefused` as for `check`; `Unreachable`, also after `seconds` in all.
        """
        ...

    def check(self, url: str, *, seconds: float) -> None:
        """Whether `post` may call this URL. It is resolved, and not called.

        Errors: `AddressRefused` for plain http too, unless private addresses are allowed; `Unreachable` if
        the host cannot be resolved.
        """
        ...
