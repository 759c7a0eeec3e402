"""Advances submitted uploads with the chain, and accepts recorded contributions."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.domain.contribution import ReviewReason, UploadState, decision, own_record
from backend.domain.errors import Unavailable
from backend.domain.hashing import licence_word
from backend.domain.webhooks import EventType
from backend.services.contribute.uploads import (
    apply_chain_state,
    apply_chain_states,
    apply_recorded,
    claim_rows,
    delete_content,
    delete_rows,
    find_recorded,
    has_claimable_rows,
    has_needed_folder,
    names_folder,
    purge_upload,
    release_rows,
)
from backend.services.transactions.retry import MOST_ATTEMPTS, enqueue_with_retry
from backend.services.webhooks.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.chain import BlockRef
    from backend.domain.contribution import Upload
    from backend.domain.ids import Account
    from backend.domain.registries import Contribution
    from backend.ports.storage import BlobStore
    from backend.services.contribute.staging import Staging


log = logging.getLogger(__name__)

REGISTRY = "DatasetRegistry"
ABANDONED_AFTER = timedelta(days=1)
UNSUBMITTED = (UploadState.CHECKING, UploadState.INVALID, UploadState.DRAFT)
"""States before submission."""
PENDING = (UploadState.SUBMITTED, UploadState.RECORDED, UploadState.WITHDRAWING)
"""States that the chain ends."""
MAX_ADVANCED = 100
"""Uploads of one call, so that each is reached soon however many there are."""
_EVENTS = {
    UploadState.ACCEPTED: EventType.CONTRIBUTION_ACCEPTED,
    UploadState.REJECTED: EventType.CONTRIBUTION_REJECTED,
}
"""Events of the curators' decisions."""


class Curation:
    """`curator` is the account that accepts checked contributions; None if this operator has no such role."""

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
        self._next = 0
        """Where the next call goes on among the pending uploads."""
        self._last_compared = ""
        """Id of the upload behind which the next call goes on to compare uploads with the chain."""

    def advance(self) -> int:
        """Update uploads from the chain, accept recorded ones, and delete those not submitted within a day
        of their upload or, if they failed, of its discovery: at most `MAX_ADVANCED` of each, others at the
        next call. Returns the number of changes.

        To be called periodically. It may be killed at any point, and may run concurrently.
        """
        abandoned = datetime.fromtimestamp(self._now(), UTC) - ABANDONED_AFTER
        with self._db.read() as tx:
            pending = tx.contributions.in_states(PENDING)
            expired = tx.contributions.in_states(UNSUBMITTED, before=abandoned)
            changed = self._changed(tx)
        start = self._next if self._next < len(pending) else 0
        self._next = start + MAX_ADVANCED
        advanced = [*pending[start : self._next], *changed]
        return sum(map(self._delete, expired[:MAX_ADVANCED])) + sum(map(self._advance, advanced))

    def _changed(self, tx: UnitOfWork) -> list[str]:
        """Ids of those of the next `MAX_ADVANCED` uploads whose state on the chain is another: a later
        decision replaces an earlier one, and a reorganisation can undo one.
        """
        saved = tx.contributions.following(self._last_compared, MAX_ADVANCED)
        self._last_compared = saved[-1].id if len(saved) == MAX_ADVANCED else ""
        present = apply_chain_states(tx, saved)
        return [before.id for before, now in zip(saved, present, strict=True) if now != before]

    def _delete(self, upload_id: str) -> bool:
        with self._db.begin() as tx:
            upload = tx.contributions.locked(upload_id)
            if upload is None or upload.state not in UNSUBMITTED:
                return False
            if upload.error is not None and upload.failed_at is None:
                failed_at = datetime.fromtimestamp(self._now(), UTC)
                tx.contributions.save(replace(upload, failed_at=failed_at))
                return True
            tx.contributions.save(replace(upload, state=UploadState.INVALID))  # no longer submittable
            is_needed = has_needed_folder(tx, upload)
        if not is_needed and not self._forget(upload):
            return False
        delete_rows(self._db, upload_id)
        with self._db.begin() as tx:
            tx.contributions.remove(upload_id)
        self._staging.drop(upload_id)
        return True

    def _forget(self, upload: Upload) -> bool:
        """Delete what a submission that was refused had published; whether that succeeded."""
        try:
            if upload.report.cid is not None and self._is_stored(upload):
                self._store.forget(upload.report.cid)
        except Unavailable as error:
            log.warning("upload %s: %s", upload.id, error)
            return False
        return True

    def _advance(self, upload_id: str) -> bool:
        with self._db.read() as tx:
            before = tx.contributions.get(upload_id)
            updated = None if before is None else apply_chain_state(tx, before)
        while before is not None and updated is not None and self._apply_effects(before, updated):
            with self._db.begin() as tx:
                stored = tx.contributions.locked(upload_id)
                if stored is None:
                    return False
                head = tx.chain.cursor()  # first: the record may then be newer
                recorded = own_record(stored, find_recorded(tx, stored))
                upload = apply_recorded(tx, stored, recorded)
                if upload.state is not updated.state:  # it changed while the effects were applied
                    before, updated = updated, upload
                    continue
                if recorded is not None and self._curator is not None:
                    self._decide(tx, upload, recorded, self._curator, head)
                if upload != stored:
                    self._save(tx, stored, upload)
            if recorded is not None:
                self._staging.drop_data(upload_id)  # the block store has it
            return upload != stored
        return False

    def _save(self, tx: UnitOfWork, before: Upload, upload: Upload) -> None:
        """Save what changed, and emit the event of the curators' decision if it is another."""
        tx.contributions.save(upload)
        event = _EVENTS.get(upload.state)
        if event is not None and (upload.state, upload.reason) != (before.state, before.reason):
            data = {"id": upload.id, "datanet": upload.datanet, "reason": upload.reason_name}
            emit(tx, upload.account, event, data, datetime.fromtimestamp(self._now(), UTC))

    def _apply_effects(self, before: Upload, upload: Upload) -> bool:
        """Apply the effects of a new state, before the state is saved; whether they succeeded."""
        try:
            if upload.state is UploadState.WITHDRAWN:
                purge_upload(self._db, self._store, self._staging, upload)
            elif upload.state is UploadState.WITHDRAWING and self._is_stored(upload):
                delete_content(self._db, self._store, self._staging, upload)
            elif has_claimable_rows(upload):
                release_rows(self._db, upload.id)
            elif has_claimable_rows(before):  # its rejection was replaced or removed by a reorg
                return claim_rows(self._db, upload.id, skips_claimed=True)
        except Unavailable as error:
            log.warning("upload %s: %s", upload.id, error)
            return False
        return True

    def _is_stored(self, upload: Upload) -> bool:
        return upload.report.cid is not None and self._store.has(upload.report.cid)

    def _decide(
        self,
        tx: UnitOfWork,
        upload: Upload,
        recorded: Contribution,
        curator: Account,
        head: BlockRef | None,
    ) -> None:
        """Enqueue the decision on the upload's own record, as the chain has it up to `head` or later. A
        repeated decision is the same transaction, unless that one failed or has no effect any more.

        A record of the same rows by another account is left to people: this operator cannot know which of the
        two copied, because what it received may be a copy of a transaction that was already pending.
        """
        if upload.state is UploadState.WITHDRAWING:
            if not names_folder(recorded, upload):
                return
            reason = ReviewReason.WITHDRAWN
        elif recorded.is_accepted is None and _is_as_checked(recorded, upload):
            reason = ReviewReason.NONE
        else:
            return
        datanet, content_hash = recorded.datanet, recorded.content_hash
        call, args = (REGISTRY, "review"), [str(datanet), [decision(content_hash, reason)]]
        key = f"review:{datanet}:{content_hash}:{reason}"
        # Where its effect does not show, another curator replaced it, or a reorganisation removed it.
        seen = None if head is None else head.number
        enqueue_with_retry(tx, curator, call, args, key, MOST_ATTEMPTS, seen)


def _is_as_checked(recorded: Contribution, upload: Upload) -> bool:
    """Whether the chain has what was checked, the licence included. A contributor can record the same rows
    first, under another folder, licence or number; then people decide.
    """
    report = upload.report
    if report.are_terms_unknown:
        return False
    checked = (licence_word(report.licence), report.num_rows)
    return (recorded.licence, recorded.num_rows) == checked and names_folder(recorded, upload)
