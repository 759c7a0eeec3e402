"""Errors of a market's API."""

from __future__ import annotations

from backend.domain.errors import Conflict, InvalidInput


class ApiError(Conflict):
    """The API returned an error; `details["status"]` is the HTTP status."""


class NotAMarket(InvalidInput):
    """The server at the market's URL is not the API of a market."""
