"""Delivers webhooks, each endpoint in its own thread, and runs the sweeps that queue events."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from backend.metrics import WEBHOOKS
from workers.sweeps import SWEEP_SECONDS, run_sweeps

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from backend.domain.webhooks import WebhookDelivery
    from backend.services.webhooks.delivery import Deliveries

POLL_SECONDS = 0.5
NUM_THREADS = 16
"""Endpoints that are called at once. One that does not answer holds a thread for 15 seconds."""
log = logging.getLogger(__name__)


class WebhookRelay:
    """`sweeps` are idempotent and run every few seconds."""

    def __init__(self, deliveries: Deliveries, sweeps: Sequence[Callable[[], object]]) -> None:
        self._deliveries = deliveries
        self._sweeps = (*sweeps, deliveries.forget_ended)
        self._running: dict[str, Future[None]] = {}
        """Deliveries that are being sent, by endpoint."""

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set and the started deliveries have ended."""
        swept_at = -SWEEP_SECONDS
        with ThreadPoolExecutor(NUM_THREADS, "webhook") as pool:
            while not stop.wait(POLL_SECONDS):
                try:
                    if time.monotonic() - swept_at >= SWEEP_SECONDS:
                        swept_at = time.monotonic()
                        run_sweeps(self._sweeps)
                    self.start_due(pool)
                except Exception:
                    log.exception("a round of webhooks failed; the next one tries again")

    def start_due(self, pool: ThreadPoolExecutor) -> int:
        """Start due deliveries, at most one for each endpoint; returns their number."""
        self._running = {endpoint: sent for endpoint, sent in self._running.items() if not sent.done()}
        claimed = self._deliveries.claim(NUM_THREADS - len(self._running), tuple(self._running))
        for delivery in claimed:
            self._running[delivery.endpoint_id] = pool.submit(self._send, delivery)
        return len(claimed)

    def _send(self, delivery: WebhookDelivery) -> None:
        try:
            outcome = self._deliveries.send(delivery)
        except Exception:  # it is claimed, and sent again once the claim expires
            log.exception("webhook %s was not recorded", delivery.id)
            return
        if outcome is not None:
            WEBHOOKS.labels(outcome.value).inc()
