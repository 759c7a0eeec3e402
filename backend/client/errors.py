"""Errors of a market's API."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator


class ApiError(Conflict):
    """The API returned an error; `details["status"]` is the HTTP status."""


class NotAMarket(InvalidInput):
    """The server at the market's URL is not the API of a market."""


@contextmanager
def reading_answer() -> Iterator[None]:
    """Turn what reading a malformed answer raises into `NotAMarket`. Usable as a decorator."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, InvalidInput) as error:
        raise NotAMarket(f"an answer of the market is malformed: {error!r}; nothing was signed") from error
