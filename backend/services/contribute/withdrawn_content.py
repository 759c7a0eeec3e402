"""Deletes local copies of other operators' contributions that their contributors withdrew."""

from __future__ import annotations

import logging
import time
from hashlib import sha256
from typing import TYPE_CHECKING

from backend.domain.content import ContentCorrupt, ContentMissing, ContentUnsafe, cid_of
from backend.services.contribute.staging import DATA_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Cid, Hash32
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
        """Delete withdrawn contents, at most once a minute. A folder is deleted only if it has the rows of a
        withdrawn contribution: anyone can record one that names a folder of others, such as a batch's data.

        Errors: `Unavailable`.
        """
        if (now := self._clock()) < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_SECONDS
        with self._db.read() as tx:
            withdrawn = tx.chain.withdrawn_contents()
        new = sorted(withdrawn.keys() - self._deleted)
        stored = [cid_of(digest) for digest in new if self._has_rows(cid_of(digest), withdrawn[digest])]
        if stored:
            self._store.forget(*stored)
            log.info("deleted withdrawn contributions: %s", ", ".join(stored))
        self._deleted |= withdrawn.keys()

    def _has_rows(self, cid: Cid, content_hashes: set[Hash32]) -> bool:
        """Whether the store has a folder whose rows have one of these hashes."""
        if not self._store.has(cid):
            return False
        digest = sha256()
        try:
            for chunk in self._store.open(cid, DATA_FILE):
                digest.update(chunk)
        except (ContentMissing, ContentCorrupt, ContentUnsafe):
            return False
        return "0x" + digest.hexdigest() in content_hashes
