"""Delivers webhooks, each endpoint in its own thread, and runs the sweeps that queue events."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from backend.metrics import WEBHOOKS
from workers.sweeps import SWEEP_SECONDS, at_most_every, run_sweeps

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future

    from backend.domain.webhooks import WebhookDelivery
    from backend.services.webhooks.delivery import Deliveries

POLL_SECONDS = 0.5
NUM_THREADS = 16
"""Endpoints that are called at once. One that does not answer holds a thread for 15 seconds."""
MAX_SLOW = 4
"""Threads for endpoints whose last delivery took longer than `SLOW_SECONDS`, whether it succeeded or not."""
SLOW_SECONDS = 2.0
MAX_REMEMBERED = 1000
"""Slow endpoints; some may have been deleted since."""
log = logging.getLogger(__name__)


class WebhookRelay:
    """`sweeps` are idempotent and run every few seconds."""

    def __init__(self, deliveries: Deliveries, sweeps: Sequence[Callable[[], object]]) -> None:
        self._deliveries = deliveries
        self._sweeps = (*sweeps, deliveries.forget_ended)
        self._running: dict[str, Future[None]] = {}
        """Deliveries that are being sent, by endpoint."""
        self._slow: set[str] = set()
        """Endpoints whose last delivery was slow."""

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set and the started deliveries have ended."""
        sweep = at_most_every(SWEEP_SECONDS, lambda: run_sweeps(self._sweeps))
        with ThreadPoolExecutor(NUM_THREADS, "webhook") as pool:
            while not stop.wait(POLL_SECONDS):
                try:
                    sweep()
                    self.start_due(pool)
                except Exception:
                    log.exception("a round of webhooks failed; the next one tries again")

    def start_due(self, pool: ThreadPoolExecutor) -> int:
        """Start due deliveries, at most one for each endpoint; returns their number."""
        self._running = {endpoint: sent for endpoint, sent in self._running.items() if not sent.done()}
        if len(self._slow) > MAX_REMEMBERED:
            self._slow.clear()
        num_slow = len(self._slow & self._running.keys())
        num_quick = len(self._running) - num_slow
        quick = self._start(pool, NUM_THREADS - MAX_SLOW - num_quick, tuple(self._slow))
        return quick + self._start(pool, MAX_SLOW - num_slow)

    def _start(self, pool: ThreadPoolExecutor, limit: int, left_out: Collection[str] = ()) -> int:
        free = min(limit, NUM_THREADS - len(self._running))
        claimed = self._deliveries.claim(free, (*self._running, *left_out)) if free > 0 else []
        for delivery in claimed:
            self._running[delivery.endpoint_id] = pool.submit(self._send, delivery)
        return len(claimed)

    def _send(self, delivery: WebhookDelivery) -> None:
        began_at = time.monotonic()
        try:
            outcome = self._deliveries.send(delivery)
        except Exception:  # it is claimed, and sent again once the claim expires
            log.exception("webhook %s was not recorded", delivery.id)
            return
        finally:
            is_slow = time.monotonic() - began_at > SLOW_SECONDS
            (self._slow.add if is_slow else self._slow.discard)(delivery.endpoint_id)
        if outcome is not None:
            WEBHOOKS.labels(outcome.value).inc()
