"""Messages of the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `topic` and `key` identify it: receivers use them to ignore a second delivery."""

    id: int
    topic: str
    key: str
    payload: Mapping[str, Any]
    num_attempts: int
    trace: str | None = None
    """`traceparent` of the span that added the message; see `telemetry.traces`."""
