"""Local cache of adapter folders by CID: each is fetched once, verified, and shared by all requests. Those
that were used least recently make room for others.
"""

from __future__ import annotations

import logging
import threading
import time
from math import inf
from typing import TYPE_CHECKING

from backend.domain.adapter_files import CONFIG_FILE, MAX_ADAPTER_BYTES, exported_from
from backend.domain.content import ContentCorrupt, ContentMissing, cid_of
from backend.domain.errors import Conflict, Unavailable
from backend.domain.ids import Cid
from backend.folder_cache import FolderCache
from backend.ports.storage import fetch_nothing
from backend.services.disk_space import DiskSpace
from inference.protocol import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from backend.domain.ids import Hash32
    from backend.domain.receipt import VersionRecord
    from backend.folder_cache import CachedFolder
    from backend.ports.storage import BlobStore, FetchFolder


SHARES = 8
"""Of the disk space: four fetches at a time, each with a copy in the store and one in the cache."""
MIN_SPACE = 64 << 20
"""With less, no adapter is fetched."""
ROOM_PART = 20
"""This part of the disk is made free for adapters to come, but no more than the largest one needs."""
IN_USE_SECONDS = 3600.0
"""A folder stays for so long after each use: longer than it is read by what does not call `keep_in_use`."""

log = logging.getLogger(__name__)


class AdapterMissing(Unavailable):
    """The version is registered, but no reachable operator holds its folder."""


class AdapterFolders:
    """`fetch_folder` fetches a folder that the store lacks. Folders leave `reserved` bytes of the disk free.
    `exports`: where folders are written for vLLM servers, each with the digests of its adapters in
    `exported_from` of its configuration. `in_use_seconds`: time after a use in which a folder may be read.
    """

    def __init__(
        self,
        store: BlobStore,
        root: Path,
        fetch_folder: FetchFolder = fetch_nothing,
        exports: Sequence[Path] = (),
        reserved: int = 0,
        in_use_seconds: float = IN_USE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._fetch_folder = store, fetch_folder
        self._cache, self._exports = FolderCache(root), [FolderCache(each) for each in exports]
        self._space, self._in_use_seconds, self._clock = DiskSpace(root, reserved), in_use_seconds, clock
        self._lock, self._evicting = threading.Lock(), threading.Lock()
        self._fetching: dict[Cid, threading.Lock] = {}

    def cached(self, record: VersionRecord) -> Path | None:
        """The folder if it is in the cache, where it stays for `in_use_seconds`."""
        return self._cache.use(cid_of(record.cid_digest))

    def folder(self, record: VersionRecord) -> Path:
        """The folder, as `cached`; blocks while it is fetched. Raises AdapterMissing, ContentCorrupt,
        ContentUnsafe or DiskFull.
        """
        return self.cached(record) or self._fetch(cid_of(record.cid_digest))

    def fetch(self, record: VersionRecord, destination: Path) -> Cid:
        """Copy the folder to a path that does not exist yet. Raises as `folder`, and Conflict."""
        cid = cid_of(record.cid_digest)
        self._download(cid, destination)
        return cid

    def drop(self, cid: Cid) -> None:
        """Delete the copy. No running answer may use it."""
        self._cache.drop(cid)

    def drop_exports(self, adapter: Hash32) -> None:
        """Delete what was written of an adapter for a vLLM server, blends with it included. No running answer
        may use it.
        """
        digest = adapter.removeprefix("0x")
        for exports in self._exports:
            for folder in exports.least_recent(inf):
                if digest in exported_from(folder.read(CONFIG_FILE)):
                    exports.drop(folder.path.name)

    def _fetch(self, cid: Cid) -> Path:
        path = self._cache.root / cid
        with self._lock:
            turn = self._fetching.setdefault(cid, threading.Lock())
        try:
            with turn:  # one fetch per CID; callers that waited find the folder
                if self._cache.use(cid) is None:
                    self._cache.root.mkdir(parents=True, exist_ok=True)
                    try:
                        self._download(cid, path)
                    except (Conflict, OSError):
                        if self._cache.use(cid) is None:  # or another process was faster
                            raise
        finally:
            with self._lock:
                self._fetching.pop(cid, None)
        return path

    def _make_room(self) -> None:
        """Delete folders that were not used for `in_use_seconds`, least recently used first, while there is
        little room. Of those that were fetched from other operators the store's copies go too.
        """
        wanted = min(SHARES * MAX_ADAPTER_BYTES, self._space.total // ROOM_PART)
        with self._evicting:
            if self._space.left >= wanted:
                return
            self._cache.sweep(".*")
            # More than that: each eviction reads the nodes of all that is stored.
            missing = wanted + wanted // 4 - self._space.left
            before = self._clock() - self._in_use_seconds
            unused = [*self._cache.least_recent(before), *self._unused_exports(before)]
            folders = _least_recent(unused, missing)
            cids = [Cid(each.path.name) for each in folders if each.path.parent == self._cache.root]
            # The store's copies first: a folder that a crash leaves can be served, and is found again.
            if cids := [*cids, *self._orphans(before)]:
                self._store.evict(*cids)
            for each in folders:
                FolderCache(each.path.parent).drop(each.path.name, before)
            if folders:
                log.info("deleted %d folders of adapters that were used least recently", len(folders))

    def _unused_exports(self, before: float) -> list[CachedFolder]:
        """Of vLLM servers, on this disk."""
        here = [each for each in self._exports if each.root.is_dir() and self._space.is_disk_of(each.root)]
        found = [each for exports in here for each in exports.least_recent(before)]
        return [each for each in found if exported_from(each.read(CONFIG_FILE))]

    def _orphans(self, before: float) -> list[Cid]:
        """Copies in the store without a folder: a process ended, or what was fetched is no adapter."""
        copies = (cid for cid in self._store.copies(before) if cid not in self._fetching)
        return [cid for cid in copies if not (self._cache.root / cid).is_dir()]

    def _download(self, cid: Cid, path: Path) -> None:
        self._make_room()
        self._space.require(MIN_SPACE)
        max_bytes = min(MAX_ADAPTER_BYTES, self._space.left // SHARES)
        self._fetch_folder(cid, max_bytes)
        try:
            self._store.fetch_folder(cid, path, max_bytes=max_bytes)
        except (ContentMissing, ContentCorrupt) as error:
            if self._store.has(cid):
                self._store.evict(cid)  # a damaged copy, as of a backup, which the next request replaces
            if isinstance(error, ContentCorrupt):
                raise
            raise AdapterMissing(
                f"No reachable operator has the adapter's folder {cid} now; nothing was charged, try again.",
                details={"cid": cid},
            ) from error


def _least_recent(unused: Sequence[CachedFolder], num_bytes: int) -> list[CachedFolder]:
    """The least recently used ones, of so many bytes together."""
    found = []
    for each in sorted(unused, key=lambda each: each.used_at):
        if num_bytes <= 0:
            break
        num_bytes -= each.num_bytes
        found.append(each)
    return found


def adapter_ref(record: VersionRecord, folder: Path) -> AdapterRef:
    """The engine's reference to a version's adapter in `folder`."""
    return AdapterRef(record.adapter_digest.removeprefix("0x"), str(folder))
