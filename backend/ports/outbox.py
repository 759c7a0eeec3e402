"""External effects leave through the outbox, written in the same transaction as their cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Message:
    id: int
    topic: str
    key: str
    payload: Mapping[str, Any]
    num_attempts: int
    trace: str | None = None
    """Of what added it; see `telemetry.traces`."""


class Outbox(Protocol):
    def add(self, topic: str, payload: Mapping[str, Any], key: str) -> int:
        """Message id. The same topic and key is the same message, delivered or not."""
        ...


class OutboxQueue(Outbox, Protocol):
    """The relay's side. Delivery is at least once: receivers are idempotent by `topic` and `key`."""

    def due(self, limit: int) -> list[Message]:
        """Oldest undelivered messages whose wait is over, locked until the transaction ends."""
        ...

    def delivered(self, message_id: int) -> None: ...

    def delayed(self, message_id: int, error: str) -> None:
        """Count a failed attempt and wait, twice as long each time (1 second to 5 minutes)."""
        ...
