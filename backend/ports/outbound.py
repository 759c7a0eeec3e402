"""Requests to addresses that a stranger chose: operators' endpoints, whatever else the chain says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


class Unreachable(Unavailable):
    """Nobody of use answers at an address that a stranger named."""


class AnsweredOtherwise(Unreachable):
    """Somebody answers there, but not with what was asked for; `details["status"]` is the HTTP status."""


class AddressRefused(Unreachable):
    """An address that a stranger named and that is not called: malformed, or one of a private network."""


class OutboundHttp(Protocol):
    """The one way to addresses that a stranger chose. What comes from there is a stranger's too."""

    def get(self, url: str, *, accept: str, max_bytes: int, seconds: float) -> Iterator[bytes]:
        """The body of a 200, as it arrives; nothing is sent before the first piece is asked for.

        Errors: `AddressRefused`; `AnsweredOtherwise` for any other status, redirects included; `Unreachable`
        also for a body of more than `max_bytes`, and once `seconds` have passed, from the look-up of the host
        to the last byte.
        """
        ...
