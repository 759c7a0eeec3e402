"""Publishes the folders of datanets to be created, and deletes those that no datanet names a day later."""

from __future__ import annotations

import fcntl
import logging
import time
from itertools import islice
from typing import TYPE_CHECKING

from backend.disk.locks import locked
from backend.disk.space import DiskSpace
from backend.domain.content import cid_digest
from backend.domain.errors import Unavailable
from backend.domain.ids import Cid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.ports.storage import BlobStore

log = logging.getLogger(__name__)

ABANDONED_AFTER_SECONDS = 86_400.0
MAX_DELETED = 1000
"""Folders of one sweep: the sweeps of uploads wait for it."""
LOCK = ".lock"


class DatanetFolders:
    """`root` has an empty file for each published folder that may be abandoned. Its name is the folder's CID,
    its modification time that of the last publication. Folders leave `reserved` bytes of the disk free.
    """

    def __init__(
        self,
        db: Database,
        store: BlobStore,
        root: Path,
        reserved: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db, self._store, self._root, self._clock = db, store, root, clock
        self._space = DiskSpace(root, reserved)

    def cid(self, files: Mapping[str, bytes]) -> Cid:
        """CID of a folder, which is not stored yet."""
        return self._store.folder_cid(files)

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Store the folder, to stay if a datanet names it. Idempotent. Errors: `DiskFull`, `Unavailable`."""
        self._space.require(sum(map(len, files.values())))
        self._renew(self.cid(files))  # first: a crash leaves no folder that is never deleted
        self._store.add_folder(files)

    def _renew(self, cid: Cid) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock(fcntl.LOCK_SH | fcntl.LOCK_NB):
                (self._root / cid).touch()
        except BlockingIOError as error:
            text = "Folders of datanets are being deleted; nothing was stored, try again."
            raise Unavailable(text) from error

    def sweep(self) -> None:
        """Delete the folders that no datanet names a day after they were published. May be killed at any
        point. Errors: `Unavailable`.
        """
        with self._db.read() as tx:
            head = tx.chain.cursor()
        if head is None or not self._root.is_dir():
            return
        # A datanet may be on the chain and not indexed yet.
        before = min(self._clock(), head.timestamp) - ABANDONED_AFTER_SECONDS
        with self._lock(fcntl.LOCK_EX):
            if due := list(islice(self._published(before), MAX_DELETED)):
                self._delete_unnamed(due)

    def _published(self, before: float) -> Iterator[Cid]:
        for path in self._root.iterdir():
            if path.name != LOCK and path.stat().st_mtime < before:
                yield Cid(path.name)

    def _delete_unnamed(self, cids: Sequence[Cid]) -> None:
        with self._db.read() as tx:
            named = tx.chain.datanet_folders([cid_digest(cid) for cid in cids])
        if unnamed := [cid for cid in cids if cid_digest(cid) not in named]:
            self._store.forget(*unnamed)
            log.info("deleted %d folders of datanets that were not created", len(unnamed))
        for cid in cids:
            (self._root / cid).unlink(missing_ok=True)

    def _lock(self, mode: int) -> AbstractContextManager[None]:
        """Shared to renew a publication, after which its folder is stored; exclusive from the look at the
        publications to the end of the deletion of their folders.

        Errors: `BlockingIOError` with `LOCK_NB`.
        """
        return locked(self._root / LOCK, mode)
