"""Domain errors: classes with fields. Their HTTP statuses live in one table, `backend/api/errors.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DomainError(Exception):
    """Base of all errors that a user may see. `message` says what is wrong and what to do."""

    message: str
    param: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """Machine-readable name of the class: `InsufficientBalance` -> `insufficient_balance`."""
        name = type(self).__name__
        return "".join(("_" + c.lower()) if c.isupper() else c for c in name).lstrip("_")

    def __str__(self) -> str:
        return self.message


class InvalidInput(DomainError):
    """A value that the caller sent is malformed or out of range."""


class NotFound(DomainError):
    """The datanet, version, receipt, job, ... does not exist."""


class Conflict(DomainError):
    """The request contradicts what is already recorded."""


class Unauthenticated(DomainError):
    """No or wrong credentials."""


class Forbidden(DomainError):
    """The caller is known and not allowed."""


class PaymentRequired(DomainError):
    """The channel cannot cover the request. `details` has the missing amounts."""


class Unavailable(DomainError):
    """A part of the installation is unreachable. Nothing was charged; the request can be retried."""


class DiskFull(Unavailable):
    """A disk of this installation is full; its operator must free space."""


class DatabaseUnavailable(Unavailable):
    """The database is unreachable, busy for too long, accepts no writes, or cannot access its files."""


class Overloaded(Unavailable):
    """The queue is full: the request was refused at once and can be retried later."""
