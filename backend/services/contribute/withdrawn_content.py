"""Deletes local copies of other operators' contributions that their contributors withdrew."""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import TYPE_CHECKING

from backend.domain.content import ContentCorrupt, ContentMissing, ContentUnsafe, cid_of
from backend.services.contribute.staging import DATA_FILE, MANIFEST_FILE, stated

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Cid, DatanetId, Hash32
    from backend.domain.registries import Contribution
    from backend.ports.storage import BlobStore

log = logging.getLogger(__name__)


class WithdrawnContent:
    """Contents of withdrawn contributions that were fetched here for training."""

    def __init__(self, db: Database, store: BlobStore) -> None:
        self._db, self._store = db, store
        self._deleted: set[tuple[DatanetId, Hash32]] = set()
        """Datanets and content hashes of the withdrawn contributions whose folders were deleted or stay."""

    def sweep(self) -> None:
        """Delete withdrawn contents. A folder is deleted only if it has the rows of a
        withdrawn contribution: anyone can record one that names a folder of others, such as a batch's data.

        Errors: `Unavailable`.
        """
        with self._db.read() as tx:
            withdrawn = {(one.datanet, one.content_hash): one for one in tx.chain.withdrawn_contributions()}
        new = [withdrawn[key] for key in withdrawn.keys() - self._deleted]
        if stored := sorted({cid_of(one.cid_digest) for one in new if self._is_stored(one)}):
            self._store.forget(*stored)
            log.info("deleted withdrawn contributions: %s", ", ".join(stored))
        self._deleted = set(withdrawn)

    def _is_stored(self, withdrawn: Contribution) -> bool:
        """Whether the store has the contribution's folder, and not one of others that it names."""
        cid = cid_of(withdrawn.cid_digest)
        if not self._store.has(cid) or not self._has_rows(cid, withdrawn.content_hash):
            return False
        # The manifest decides: anyone can record the same rows and folder again, in another datanet.
        if (datanet := self._stated_datanet(cid)) is not None:
            return datanet == withdrawn.datanet
        with self._db.read() as tx:
            return not tx.chain.has_other_record(withdrawn)

    def _has_rows(self, cid: Cid, content_hash: Hash32) -> bool:
        digest = sha256()
        try:
            for chunk in self._store.open(cid, DATA_FILE):
                digest.update(chunk)
        except (ContentMissing, ContentCorrupt, ContentUnsafe):
            return False
        return "0x" + digest.hexdigest() == content_hash

    def _stated_datanet(self, cid: Cid) -> int | None:
        """The datanet in the folder's manifest, which is untrusted; None if it states none."""
        try:
            datanet = stated(self._store.open(cid, MANIFEST_FILE), "datanetId")
        except (ContentMissing, ContentCorrupt, ContentUnsafe):
            return None
        return datanet if isinstance(datanet, int) else None
