"""Warnings about transactions that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


class WarnOnce:
    """Logs each warning about a transaction once, and not at each check."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._logged: set[tuple[str, int]] = set()

    def __call__(self, text: str, transaction: int, *args: object) -> None:
        """The id of the transaction is the first argument of `text`."""
        if (text, transaction) not in self._logged:
            self._logged.add((text, transaction))
            self._log.warning(text, transaction, *args)
