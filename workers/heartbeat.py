"""Renews a job's lease while a worker works on the job."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from backend.processes.threads import start_thread

if TYPE_CHECKING:
    from types import TracebackType

    from backend.services.train.leases import LeasedJob, Leases

log = logging.getLogger(__name__)


class Heartbeat:
    """Renews in a thread, so that a long step, such as reading a large snapshot, does not cost the lease."""

    def __init__(self, leases: Leases, leased: LeasedJob) -> None:
        self._leases = leases
        self._leased = leased
        self._lost = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{leased.job.id}", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether the job was cancelled, another worker has it, or nothing renews the lease."""
        return self._lost.is_set()

    def __enter__(self) -> Self:
        start_thread(self._thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._end.wait(self._leases.heartbeat_seconds):
                if not self._renew():
                    return
        finally:
            self._lost.set()  # after an error too: no thread renews the lease

    def _renew(self) -> bool:
        try:
            return self._leases.renew(self._leased)
        except Exception:
            # The lease outlasts several intervals. A longer outage of the database ends it, as it must.
            log.exception("cannot renew the lease of %s", self._leased.job.id)
            return True
