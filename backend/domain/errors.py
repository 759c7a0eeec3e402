"""Domain errors: classes with fields. Their HTTP statuses live in one table, `backend/api/errors.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DomainError(Exception):
    """Base of all errors that a user may see: says what was wrong, where, and what to do."""

    message: str
    param: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """Stable machine-readable name, from the class: `InsufficientBalance` -> `insufficient_balance`."""
        name = type(self).__name__
        return "".join(("_" + c.lower()) if c.isupper() else c for c in name).lstrip("_")

    def __str__(self) -> str:
        return self.message


class InvalidInput(DomainError):
    """A value that the caller sent is malformed or out of range."""


class NotFound(DomainError):
    """No such datanet, version, receipt, job, ..."""


class Conflict(DomainError):
    """The request contradicts what is already recorded."""


class Unauthenticated(DomainError):
    """No or wrong credentials."""


class Forbidden(DomainError):
    """Known caller, not allowed."""


class PaymentRequired(DomainError):
    """The channel cannot cover the request; `details` says what is missing, in micro-units."""


class Unavailable(DomainError):
    """A part of the installation is not reachable now; the request may be retried, nothing was charged."""


class DiskFull(Unavailable):
    """No room on a disk of this installation; its operator has to make some."""


class DatabaseUnavailable(Unavailable):
    """The database is away, busy for too long, or cannot read and write its files."""


class Overloaded(Unavailable):
    """More waits already than may: the request was refused at once, and may be sent again a little later."""
