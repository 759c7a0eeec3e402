"""Port for requests to untrusted URLs, such as the endpoints that other operators publish on the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


class Unreachable(Unavailable):
    """An untrusted URL gave no usable answer."""


class UnexpectedStatus(Unreachable):
    """The server answered with another status than 200, `details["status"]`."""


class AddressRefused(Unreachable):
    """An untrusted URL is malformed, or its host has a private address. It was not called."""


class OutboundHttp(Protocol):
    """The only HTTP client for untrusted URLs. Response bodies are untrusted too."""

    def get(self, url: str, *, accept: str, max_bytes: int, seconds: float) -> Iterator[bytes]:
        """Stream the body of a 200. The request is sent when the first chunk is requested.

        Errors: `AddressRefused`; `UnexpectedStatus`, also for redirects; `Unreachable`, also if the body
        exceeds `max_bytes`, or if name resolution and transfer together take longer than `seconds`.
        """
        ...
