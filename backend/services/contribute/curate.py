"""What happens to contributions once they are on their way to the chain: recorded, then accepted."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.domain.contribution import ReviewReason, UploadState, decision
from backend.domain.errors import Unavailable
from backend.services.contribute.uploads import (
    current,
    drop_content,
    drop_rows,
    is_free,
    judged,
    let_go,
    recorded_as,
    release_rows,
)
from backend.services.transactions.retry import MOST_ATTEMPTS, enqueue_again

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.contribution import Upload
    from backend.domain.ids import Account
    from backend.domain.registries import Contribution
    from backend.ports.storage import BlobStore
    from backend.services.contribute.staging import Staging


log = logging.getLogger(__name__)

REGISTRY = "DatasetRegistry"
ABANDONED_AFTER = timedelta(days=1)
PASSING = (UploadState.CHECKING, UploadState.INVALID, UploadState.DRAFT)
"""States of uploads that nobody submitted."""
MOVING = (UploadState.SUBMITTED, UploadState.RECORDED, UploadState.WITHDRAWING)
"""States that end by themselves."""


class Curation:
    """`curator`: the account that accepts what passed our check; None where there is no such role here."""

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        staging: Staging,
        curator: Account | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._store = store
        self._staging = staging
        self._curator = curator
        self._now = now

    def advance(self) -> int:
        """Move uploads on with the chain; accept those recorded; drop those that nobody submitted in a day.
        Number of changes.

        To be called again and again. It may be killed anywhere and run beside another one.
        """
        abandoned = datetime.fromtimestamp(self._now(), UTC) - ABANDONED_AFTER
        with self._db.read() as tx:
            moving = tx.contributions.in_states(MOVING)
            left = tx.contributions.in_states(PASSING, before=abandoned)
        return sum(map(self._drop, left)) + sum(map(self._advance, moving))

    def _drop(self, upload_id: str) -> bool:
        with self._db.begin() as tx:
            upload = tx.contributions.locked(upload_id)
            if upload is None or upload.state not in PASSING:
                return False
            tx.contributions.save(replace(upload, state=UploadState.INVALID))  # nobody submits it any more
        drop_rows(self._db, upload_id)
        with self._db.begin() as tx:
            tx.contributions.remove(upload_id)
        self._staging.drop(upload_id)
        return True

    def _advance(self, upload_id: str) -> bool:
        with self._db.read() as tx:
            stored = tx.contributions.get(upload_id)
            seen = None if stored is None else current(tx, stored)
        if seen is None or not self._clear(seen):
            return False
        with self._db.begin() as tx:
            before = tx.contributions.locked(upload_id)
            if before is None:
                return False
            recorded = recorded_as(tx, before)
            upload = judged(tx, before, recorded)
            if recorded is not None and self._curator is not None:
                self._decide(tx, upload, recorded, self._curator)
            if upload != before:
                tx.contributions.save(upload)
        if upload.index is not None:
            self._staging.drop_data(upload_id)  # the block store has it
        return upload != before

    def _clear(self, upload: Upload) -> bool:
        """Whether what its state implies is done, which it must be before the state is written down."""
        try:
            if upload.state is UploadState.WITHDRAWN:
                let_go(self._db, self._store, self._staging, upload)
            elif upload.state is UploadState.WITHDRAWING and self._is_kept(upload):
                drop_content(self._store, self._staging, upload)
            elif is_free(upload):
                release_rows(self._db, upload.id)
        except Unavailable as error:
            log.warning("upload %s: %s", upload.id, error)
            return False
        return True

    def _is_kept(self, upload: Upload) -> bool:
        return upload.report.cid is not None and self._store.has(upload.report.cid)

    def _decide(self, tx: UnitOfWork, upload: Upload, recorded: Contribution, curator: Account) -> None:
        """The same decision again is the same transaction, unless that one failed."""
        if upload.state is UploadState.WITHDRAWING:
            reason = ReviewReason.WITHDRAWN
        elif recorded.is_accepted is None:
            reason = ReviewReason.NONE
        else:
            return
        datanet, content_hash = recorded.datanet, recorded.content_hash
        call, args = (REGISTRY, "review"), [str(datanet), [decision(content_hash, reason)]]
        key = f"review:{datanet}:{content_hash}:{reason}"
        enqueue_again(tx, curator, call, args, key, MOST_ATTEMPTS)
