"""Copies of contributions that other operators took in, brought here to be learned from."""

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


class Copies:
    """What its contributor took back elsewhere is not kept here either."""

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._store, self._clock = db, store, clock
        self._gone: set[Hash32] = set()
        self._next_sweep = 0.0

    def sweep(self) -> None:
        """To be called again and again; it looks once a minute. Errors: `Unavailable`."""
        if (now := self._clock()) < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_SECONDS
        with self._db.read() as tx:
            withdrawn = tx.chain.withdrawn_contents() - self._gone
        kept = [cid for cid in map(cid_of, sorted(withdrawn)) if self._store.has(cid)]
        if kept:
            self._store.forget(*kept)
            log.info("taken back, and not kept any more: %s", ", ".join(kept))
        self._gone |= withdrawn
