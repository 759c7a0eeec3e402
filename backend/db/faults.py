"""Faults of the database itself, told from defects of ours and stated in our own words."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from backend.domain.errors import DatabaseUnavailable, DiskFull

if TYPE_CHECKING:
    from backend.domain.errors import DomainError

FAULTS = (DBAPIError, sqlite3.Error)
"""SQLAlchemy's, and the driver's own while a connection is set up."""

FULL = "There is no room left on the disk of this installation's database."
BUSY = "The database of this installation is busy."
AWAY = "The database of this installation is not reachable."
BROKEN = "The database of this installation cannot read or write its files."
AFTERWARDS = "Nothing was changed; receipts say what was charged before."

_SQLITE = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_CANTOPEN: AWAY,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_IOERR: BROKEN,
    sqlite3.SQLITE_READONLY: BROKEN,
}
"""By the primary result code. Whatever is not here, such as a missing table, is ours to mend."""
_POSTGRESQL = {
    "08": AWAY,  # connection exceptions
    "40": BUSY,  # deadlocks and failed serialisations
    "53": BUSY,  # too many connections, out of memory
    "55": BUSY,  # locks that were not to be had
    "57": AWAY,  # shut down, starting up
    "58": BROKEN,  # I/O
    "53100": FULL,
}
"""By SQLSTATE, else by its class."""


def stated(error: Exception, *, is_committing: bool) -> DomainError | None:
    """What callers are told; None for defects of ours. A connection that is lost while a transaction is being
    committed leaves open whether it was, so then nothing is promised either: None.
    """
    text = _text(error)
    if text is None or (is_committing and text == AWAY):
        return None
    kind = DiskFull if text == FULL else DatabaseUnavailable
    return kind(f"{text} {AFTERWARDS} Try again later.")


def _text(error: Exception) -> str | None:
    cause = getattr(error, "orig", error)
    if isinstance(cause, sqlite3.Error):
        return _SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)
    state = getattr(cause, "sqlstate", None)
    if state is None:  # the driver's own word: no server has said anything
        return AWAY if _is_operational(cause) else None
    return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])


def _is_operational(cause: BaseException | None) -> bool:
    """By its name in PEP 249: a driver that is not installed cannot be imported to ask."""
    return any(kind.__name__ == "OperationalError" for kind in type(cause).__mro__)
