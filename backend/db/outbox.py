"""Repository of the outbox."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import delete, select

from backend.db.session import insert_if_absent
from backend.db.tables.outbox import OutboxRow
from backend.domain.errors import NotFound
from backend.domain.outbox import Message
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import CursorResult
    from sqlalchemy.orm import Session

LONGEST_WAIT_SECONDS = 300


class OutboxStore:
    """Messages for external effects, written in the transaction of their cause.

    Delivery is at least once: receivers are idempotent by `topic` and `key`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, topic: str, payload: Mapping[str, Any], key: str) -> int:
        """Add a message and return its id. Adding the same topic and key again returns the same message."""
        now = datetime.now(UTC)
        values = {
            "payload": dict(payload),
            "created_at": now,
            "due_at": now,
            "trace": traces.current_traceparent(),
        }
        insert_if_absent(self._session, OutboxRow, topic=topic, key=key, **values)
        return self._session.scalars(select(OutboxRow.id).filter_by(topic=topic, key=key)).one()

    def due(self, limit: int) -> list[Message]:
        """Undelivered messages that are due, oldest first, locked until the transaction ends."""
        rows = self._session.scalars(
            select(OutboxRow)
            .where(OutboxRow.delivered_at.is_(None), OutboxRow.due_at <= datetime.now(UTC))
            .order_by(OutboxRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return [Message(r.id, r.topic, r.key, r.payload, r.num_attempts, r.trace) for r in rows]

    def delivered(self, message_id: int) -> None:
        row = self._row(message_id)
        row.delivered_at = datetime.now(UTC)
        row.num_attempts += 1
        self._session.flush()

    def forget_delivered(self, before: datetime) -> int:
        """Delete messages delivered before a time and return their number. Their keys can be used again."""
        old = delete(OutboxRow).where(OutboxRow.delivered_at < before)
        return cast("CursorResult[Any]", self._session.execute(old)).rowcount

    def delayed(self, message_id: int, error: str) -> None:
        """Record a failed attempt and retry with exponential backoff (1 second to 5 minutes)."""
        row = self._row(message_id)
        wait = min(1 << min(row.num_attempts, 16), LONGEST_WAIT_SECONDS)
        row.num_attempts += 1
        row.last_error = error
        row.due_at = datetime.now(UTC) + timedelta(seconds=wait)
        self._session.flush()

    def _row(self, message_id: int) -> OutboxRow:
        row = self._session.get(OutboxRow, message_id)
        if row is None:
            raise NotFound(f"no outbox message {message_id}", param="message_id")
        return row
