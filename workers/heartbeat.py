"""Keeps a lease while its work goes on."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from backend.services.train.leases import Held, Leases

log = logging.getLogger(__name__)


class Heartbeat:
    """Renews in a thread of its own: reading a large snapshot must not cost the lease."""

    def __init__(self, leases: Leases, held: Held) -> None:
        self._leases = leases
        self._held = held
        self._lost = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{held.job.id}", daemon=True)

    @property
    def is_lost(self) -> bool:
        """The job was cancelled or taken over."""
        return self._lost.is_set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._end.wait(self._leases.heartbeat_seconds):
            try:
                is_ours = self._leases.renew(self._held)
            except Exception:
                # The lease outlasts several beats; a database that is away for longer costs it, as it must.
                log.exception("cannot renew the lease of %s", self._held.job.id)
                continue
            if not is_ours:
                self._lost.set()
                return
