"""Delivers outbox messages to Celery and runs the periodic sweeps of workers."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.metrics import DELIVERIES
from telemetry import traces
from workers.app import QUEUE_BY_TASK
from workers.sweeps import SWEEP_SECONDS, at_most_every, run_sweeps

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from celery import Celery

    from backend.db.unit_of_work import Database
    from backend.domain.outbox import Message

RELAY_SECONDS = 0.5
BATCH = 100
RETENTION = timedelta(days=1)
"""How long delivered messages are retained for inspection."""
log = logging.getLogger(__name__)


class Relay:
    """Delivers at least once: a crash between sending and recording sends again, and tasks are idempotent.

    `send(task, payload)` puts a message on the broker. `sweeps` are idempotent and run every few seconds.
    """

    def __init__(
        self,
        db: Database,
        send: Callable[[str, Mapping[str, Any]], None],
        sweeps: Sequence[Callable[[], object]],
    ) -> None:
        self._db = db
        self._send = send
        self._sweeps = sweeps

    def run(self, stop: threading.Event) -> None:
        sweep = at_most_every(SWEEP_SECONDS, self.sweep)
        while not stop.wait(RELAY_SECONDS):
            try:
                sweep()
                self.run_once()
            except Exception:
                log.exception("relay round failed; the next one tries again")

    def run_once(self) -> int:
        """Deliver due messages; return how many were delivered."""
        with self._db.begin() as tx:
            messages = tx.outbox.due(BATCH)
        failures = {message.id: self._failure(message) for message in messages}
        with self._db.begin() as tx:
            for message_id, failure in failures.items():
                if failure is None:
                    tx.outbox.delivered(message_id)
                else:
                    tx.outbox.delayed(message_id, failure)
        return list(failures.values()).count(None)

    def _failure(self, message: Message) -> str | None:
        """Send; return the error, if any. Called outside a transaction, since a broker may be slow."""
        try:
            with traces.span(f"send {message.topic}", message.trace):
                self._send(message.topic, message.payload)
        except Exception as error:  # noqa: BLE001 - on any error of a broker's client the message is retried
            log.warning("cannot deliver %s: %s", message.topic, error)
            DELIVERIES.labels(message.topic, "failed").inc()
            return f"{type(error).__name__}: {error}"
        DELIVERIES.labels(message.topic, "delivered").inc()
        return None

    def sweep(self) -> None:
        with self._db.begin() as tx:
            tx.outbox.forget_delivered(datetime.now(UTC) - RETENTION)
        run_sweeps(self._sweeps)


def outbox_sender(app: Celery) -> Callable[[str, Mapping[str, Any]], None]:
    """A function that puts a message on the broker, with the current span in its headers."""

    def send(task: str, payload: Mapping[str, Any]) -> None:
        if task not in QUEUE_BY_TASK:
            raise LookupError(f"no task for the topic {task!r}")
        context = traces.current_traceparent()
        app.send_task(task, kwargs=dict(payload), headers={traces.TRACEPARENT: context} if context else None)

    return send
