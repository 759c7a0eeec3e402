"""Derives the state of uploads from the chain, and claims, releases and deletes their rows.

Rows are processed in batches, each in its own transaction, so that a large upload does not block a database
with a single writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.content import cid_digest
from backend.domain.contribution import Upload, UploadState, own_record, update_from_chain
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import DatanetId, Hash32
    from backend.domain.registries import Contribution
    from backend.ports.storage import BlobStore
    from backend.services.contribute.staging import Staging


ROWS_AT_ONCE = 2000


def apply_chain_state(tx: UnitOfWork, upload: Upload) -> Upload:
    """The upload with its present state on the chain."""
    if upload.transaction_id is None:
        return update_from_chain(upload, None, None)
    return apply_recorded(tx, upload, own_record(upload, find_recorded(tx, upload)))


def apply_chain_states(tx: UnitOfWork, uploads: Sequence[Upload]) -> list[Upload]:
    """`apply_chain_state` of each, with one query for the records of all."""
    keys = [_key(upload) for upload in uploads]
    found = tx.chain.contributions_with({key for key in keys if key is not None})
    recorded = {(one.datanet, one.content_hash): one for one in found}
    pairs = zip(uploads, (key and recorded.get(key) for key in keys), strict=True)
    return [apply_recorded(tx, upload, own_record(upload, record)) for upload, record in pairs]


def apply_recorded(tx: UnitOfWork, upload: Upload, recorded: Contribution | None) -> Upload:
    """The upload with the state of `recorded`, which is its `own_record`; of its transaction without one."""
    if recorded is not None or upload.transaction_id is None:
        return update_from_chain(upload, recorded, None)
    return update_from_chain(upload, None, tx.transactions.get(upload.transaction_id))


def find_recorded(tx: UnitOfWork, upload: Upload) -> Contribution | None:
    """The contribution with the upload's content hash in the registry, if any."""
    key = _key(upload)
    return None if key is None else tx.chain.contribution_with(*key)


def _key(upload: Upload) -> tuple[DatanetId, Hash32] | None:
    """Datanet and content hash, by which the registry has its record."""
    content_hash = upload.report.content_hash
    return None if content_hash is None else (upload.datanet, content_hash)


def claim_rows(db: Database, upload_id: str, *, skips_claimed: bool = False) -> bool:
    """Claim all rows, or with `skips_claimed` all that no other upload has claimed; False if another upload
    has claimed one. The caller must release the rows unless it submits.

    Rows are claimed in order of their hashes, so that of two concurrent uploads with common rows one
    succeeds.
    """
    after: str | None = ""
    while after is not None:
        try:
            with db.begin() as tx:
                after = tx.contributions.claim_rows(
                    upload_id, after, ROWS_AT_ONCE, skips_claimed=skips_claimed
                )
        except Conflict:
            return False
    line: int | None = 0
    while line is not None:
        with db.begin() as tx:
            line = tx.sketches.publish(upload_id, line, ROWS_AT_ONCE)
    return True


def release_rows(db: Database, upload_id: str) -> None:
    """Release the claims of an upload in a state of `has_claimable_rows`; otherwise do nothing."""
    line: int | None = 0
    while line is not None:
        with db.begin() as tx:
            if not _is_releasable(tx, upload_id):
                return
            line = tx.sketches.retract(upload_id, line, ROWS_AT_ONCE)
    after: str | None = ""
    while after is not None:
        with db.begin() as tx:
            if not _is_releasable(tx, upload_id):
                return
            after = tx.contributions.release_rows(upload_id, after, ROWS_AT_ONCE)


def _is_releasable(tx: UnitOfWork, upload_id: str) -> bool:
    upload = tx.contributions.locked(upload_id)
    return upload is not None and has_claimable_rows(apply_chain_state(tx, upload))


def has_claimable_rows(upload: Upload) -> bool:
    """Whether other uploads may claim its rows."""
    return upload.state in {UploadState.DRAFT, UploadState.REJECTED, UploadState.WITHDRAWN}


def delete_rows(db: Database, upload_id: str) -> None:
    has_more = True
    while has_more:
        with db.begin() as tx:
            has_sketches = tx.sketches.drop(upload_id, ROWS_AT_ONCE)
            has_more = tx.contributions.drop_rows(upload_id, ROWS_AT_ONCE) or has_sketches


def purge_upload(db: Database, store: BlobStore, staging: Staging, upload: Upload) -> None:
    """Release the rows of a withdrawn upload and delete its content. Errors: `Unavailable`."""
    release_rows(db, upload.id)
    delete_rows(db, upload.id)
    delete_content(db, store, staging, upload)


def delete_content(db: Database, store: BlobStore, staging: Staging, upload: Upload) -> None:
    """Delete the upload's bytes and its list of defects; of an upload that was not sent, only the bytes that
    no other needs. Errors: `Unavailable`.
    """
    staging.drop(upload.id)
    if upload.report.cid is None:
        return
    if upload.transaction_id is None:
        with db.read() as tx:
            if has_needed_folder(tx, upload):
                return
    if store.has(upload.report.cid):  # most drafts never were; an IPFS daemon would collect its garbage
        store.forget(upload.report.cid)


def has_needed_folder(tx: UnitOfWork, upload: Upload) -> bool:
    """Whether the folder of an upload that was not sent is also that of another upload, or recorded."""
    if upload.report.cid is None:
        return False
    recorded = find_recorded(tx, upload)
    is_recorded = recorded is not None and names_folder(recorded, upload)
    return is_recorded or tx.contributions.is_shared(upload)


def names_folder(recorded: Contribution, upload: Upload) -> bool:
    """Whether the record names the folder of these rows, and not one of others, which would be deleted."""
    cid = upload.report.cid
    return cid is not None and recorded.cid_digest == cid_digest(cid)
