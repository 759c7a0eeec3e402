"""Deletes local copies of other operators' contributions that their contributors withdrew."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from backend.domain.content import cid_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Hash32
    from backend.ports.storage import BlobStore

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0


class WithdrawnContent:
    """Contents of withdrawn contributions that were fetched here for training."""

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._store, self._clock = db, store, clock
        self._deleted: set[Hash32] = set()
        self._next_sweep = 0.0

    def sweep(self) -> None:
        """Delete withdrawn contents, at most once a minute. Errors: `Unavailable`."""
        if (now := self._clock()) < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_SECONDS
        with self._db.read() as tx:
            withdrawn = tx.chain.withdrawn_contents() - self._deleted
        stored = [cid for cid in map(cid_of, sorted(withdrawn)) if self._store.has(cid)]
        if stored:
            self._store.forget(*stored)
            log.info("deleted withdrawn contributions: %s", ", ".join(stored))
        self._deleted |= withdrawn
