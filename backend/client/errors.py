"""Errors of a market's API."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator


READING_ERRORS = (
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(RecursionError, InvalidInput),
)
"""What reading a value of another form raises."""


class ApiError(Conflict):
    """The API returned an error; `details["status"]` is the HTTP status."""


class NotAMarket(InvalidInput):
    """The server at the market's URL is not the API of a market."""


class Answer(dict[str, Any]):
    """An object of a market's JSON. Errors: `NotAMarket` for a member that it lacks."""

    def __missing__(self, name: str) -> Any:
        raise NotAMarket(f"an answer of the market has no {name!r}; is this the URL of a market?")


@contextmanager
def reading_answer(so_far: str = "nothing was signed") -> Iterator[None]:
    """Turn what reading a malformed answer raises into `NotAMarket`, which says what was done `so_far`.
    Usable as a decorator.
    """
    try:
        yield
    except READING_ERRORS as error:
        raise NotAMarket(f"an answer of the market is malformed: {error!r}; {so_far}") from error
