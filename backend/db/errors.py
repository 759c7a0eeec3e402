"""Translates operational errors of the database into domain errors; programming errors pass unchanged."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from backend.domain.errors import DatabaseUnavailable, DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.domain.errors import DomainError

log = logging.getLogger(__name__)

DRIVER_ERRORS = (DBAPIError, PoolTimeout, sqlite3.Error)
"""SQLAlchemy's wrapper, its error for a pool without a free connection, and the bare driver error that is
raised while a connection is set up.
"""
READ_ONLY = "25006"
"""SQLSTATE of a write where only reads are allowed."""

FULL = "There is no room left on the disk of this installation's database."
BUSY = "The database of this installation is busy."
AWAY = "The database of this installation is not reachable."
REFUSED = "The database of this installation accepts no writes."
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
"""Error text by primary result code. Codes that are missing here, such as a missing table, are programming
errors.
"""
_POSTGRESQL = {
    READ_ONLY: REFUSED,
    "08": AWAY,  # connection exceptions
    "40": BUSY,  # deadlocks and failed serialisations
    "53": BUSY,  # too many connections, out of memory
    "55": BUSY,  # lock not available
    "57": AWAY,  # shut down, starting up
    "58": BROKEN,  # I/O
    "53100": FULL,
}
"""Error text by SQLSTATE, or by its first two characters (the class)."""


def to_domain_error(error: Exception, *, is_committing: bool) -> DomainError | None:
    """The domain error for a driver error; None for programming errors.

    Also None for a connection that is lost during COMMIT: the outcome is unknown, so the message must not
    promise that nothing was changed.
    """
    text = _text(error)
    if text is None or (is_committing and text == AWAY):
        return None
    kind = DiskFull if text == FULL else DatabaseUnavailable
    return kind(f"{text} {AFTERWARDS} Try again later.")


@contextmanager
def database_errors() -> Iterator[Callable[[], None]]:
    """Turn operational errors of the driver into domain errors, which do not show the SQL statement, and log
    the driver's. The block calls what it gets just before it commits.
    """
    is_committing = False

    def commits() -> None:
        nonlocal is_committing
        is_committing = True

    try:
        yield commits
    except DRIVER_ERRORS as error:
        translated = to_domain_error(error, is_committing=is_committing)
        if translated is None:
            raise
        log.warning("the database failed: %s", getattr(error, "orig", error))
        raise translated from error


def _text(error: Exception) -> str | None:
    if isinstance(error, PoolTimeout):
        return BUSY
    cause = getattr(error, "orig", error)
    if isinstance(cause, sqlite3.Error):
        return _SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)
    state = getattr(cause, "sqlstate", None)
    if state is None:  # raised by the driver, not by the server
        return AWAY if _is_operational(cause) else None
    if state == READ_ONLY and not getattr(error, "connection_invalidated", False):
        return None  # a write in `Database.read`
    return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])


def _is_operational(cause: BaseException | None) -> bool:
    """Compares the class name defined by PEP 249, because the driver may not be installed."""
    return any(kind.__name__ == "OperationalError" for kind in type(cause).__mro__)
