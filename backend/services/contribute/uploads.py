"""Uploads by what the chain says of them, and the claims of their rows.

Rows are claimed, given up and dropped a few at a time, each time in a transaction of its own: a database with
one writer must not stand still for a large upload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.contribution import Upload, UploadState, update_from_chain
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.registries import Contribution
    from backend.ports.storage import BlobStore
    from backend.services.contribute.staging import Staging


ROWS_AT_ONCE = 2000


def current(tx: UnitOfWork, upload: Upload) -> Upload:
    """The upload with what the chain says of it now."""
    if upload.transaction_id is None:
        return update_from_chain(upload, None, None)
    return judged(tx, upload, recorded_as(tx, upload))


def judged(tx: UnitOfWork, upload: Upload, recorded: Contribution | None) -> Upload:
    sent = None if upload.transaction_id is None else tx.transactions.get(upload.transaction_id)
    return update_from_chain(upload, recorded, sent)


def recorded_as(tx: UnitOfWork, upload: Upload) -> Contribution | None:
    """What the registry holds under the upload's content hash."""
    if upload.index is not None:
        known = tx.chain.contribution(upload.datanet, upload.index)
        if known is not None and known.content_hash == upload.report.content_hash:
            return known
    recorded = tx.chain.contributions(upload.datanet)
    return next((c for c in recorded if c.content_hash == upload.report.content_hash), None)


def claim_rows(db: Database, upload_id: str) -> bool:
    """Claim all rows; False if another upload has one. Whoever does not submit then gives up what it claimed.

    By rising hash: of two uploads that claim the same rows at once, one gets through.
    """
    after: str | None = ""
    while after is not None:
        try:
            with db.begin() as tx:
                after = tx.contributions.claim_rows(upload_id, after, ROWS_AT_ONCE)
        except Conflict:
            return False
    line: int | None = 0
    while line is not None:
        with db.begin() as tx:
            line = tx.sketches.publish(upload_id, line, ROWS_AT_ONCE)
    return True


def release_rows(db: Database, upload_id: str) -> None:
    """Give up the claims of an upload that others may have the rows of; those of any other stay."""
    line: int | None = 0
    while line is not None:
        with db.begin() as tx:
            if not _is_still_free(tx, upload_id):
                return
            line = tx.sketches.retract(upload_id, line, ROWS_AT_ONCE)
    after: str | None = ""
    while after is not None:
        with db.begin() as tx:
            if not _is_still_free(tx, upload_id):
                return
            after = tx.contributions.release_rows(upload_id, after, ROWS_AT_ONCE)


def _is_still_free(tx: UnitOfWork, upload_id: str) -> bool:
    upload = tx.contributions.locked(upload_id)
    return upload is not None and is_free(current(tx, upload))


def is_free(upload: Upload) -> bool:
    """Whether others may have its rows."""
    return upload.state in {UploadState.DRAFT, UploadState.REJECTED, UploadState.WITHDRAWN}


def drop_rows(db: Database, upload_id: str) -> None:
    is_left = True
    while is_left:
        with db.begin() as tx:
            has_sketches = tx.sketches.drop(upload_id, ROWS_AT_ONCE)
            is_left = tx.contributions.drop_rows(upload_id, ROWS_AT_ONCE) or has_sketches


def let_go(db: Database, store: BlobStore, staging: Staging, upload: Upload) -> None:
    """Free the rows of a withdrawn upload, and keep nothing of their bytes. Errors: `Unavailable`."""
    release_rows(db, upload.id)
    drop_rows(db, upload.id)
    drop_content(store, staging, upload)


def drop_content(store: BlobStore, staging: Staging, upload: Upload) -> None:
    """Its bytes and the list of its defects. Errors: `Unavailable`."""
    staging.drop(upload.id)
    if upload.report.cid is not None:
        store.forget(upload.report.cid)
