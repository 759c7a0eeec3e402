"""Audits that requests start and wait for briefly.

To fetch an operator's batch data may take minutes. So an audit runs in a thread, one at a time for each
operator, and a request that needs the result waits until the audit has taken `WAIT_SECONDS`. A failed audit
is repeated once as much time as it took has passed: such an operator takes at most half of a thread's time.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING

from backend.domain.errors import DomainError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.services.audit.auditor import Auditor

WAIT_SECONDS = 5.0
MAX_THREADS = 4
"""Maximum number of operators that are audited at the same time."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Audit:
    """An audit of one operator. `repeat_at`: when it may be repeated after a failure."""

    operator: Account
    began_at: float
    is_done: threading.Event = field(default_factory=threading.Event)
    error: DomainError | None = None
    repeat_at: float = 0.0


class BackgroundAudits:
    """Threads start as they are needed and end with the process. Thread-safe."""

    def __init__(
        self,
        db: Database,
        auditor: Auditor,
        wait_seconds: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._auditor, self._wait_seconds, self._clock = db, auditor, wait_seconds, clock
        self._lock = threading.Lock()
        self._latest: dict[Account, _Audit] = {}
        self._queue: SimpleQueue[_Audit] = SimpleQueue()
        self._num_threads = 0

    def follow(self, operators: Iterable[Account]) -> dict[Account, DomainError]:
        """Audit what these operators have committed since. Returns why the newest batches of some of them are
        not audited: `WrongBatch`, or `Unavailable` while their data is missing or still fetched.
        """
        with self._db.read() as tx:
            behind = [operator for operator in operators if not self._auditor.is_current(tx, operator)]
        audits = [self._audit(operator) for operator in behind]
        results = ((audit.operator, self._result(audit)) for audit in audits)
        return {operator: error for operator, error in results if error is not None}

    def _audit(self, operator: Account) -> _Audit:
        """The audit that runs or failed a short while ago, or a new one."""
        with self._lock:
            latest, now = self._latest.get(operator), self._clock()
            if latest is not None and (not latest.is_done.is_set() or now < latest.repeat_at):
                return latest
            audit = self._latest[operator] = _Audit(operator, now)
            self._queue.put(audit)
            if self._num_threads < MAX_THREADS:
                self._num_threads += 1
                threading.Thread(target=self._run, name=f"audit-{self._num_threads}", daemon=True).start()
            return audit

    def _result(self, audit: _Audit) -> DomainError | None:
        left = audit.began_at + self._wait_seconds - self._clock()
        if audit.is_done.wait(max(left, 0)):
            return audit.error
        return Unavailable(f"the batches of {audit.operator} are still being fetched and audited; try again")

    def _run(self) -> None:
        while True:
            audit = self._queue.get()
            began_at = self._clock()
            try:
                self._auditor.follow(audit.operator)
            except DomainError as error:
                audit.error = error
            except Exception as error:
                log.exception("%s cannot be audited", audit.operator)
                audit.error = Unavailable(f"the batches of {audit.operator} cannot be audited: {error}")
            if audit.error is not None:
                ended_at = self._clock()
                audit.repeat_at = ended_at + (ended_at - began_at)
            audit.is_done.set()
