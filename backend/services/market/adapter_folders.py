"""Local cache of adapter folders by CID: each is fetched once, verified, and shared by all requests. Those
that were used least recently make room for others.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from math import inf
from typing import TYPE_CHECKING

from backend.disk.files import pieces
from backend.disk.folder_cache import FolderCache
from backend.disk.space import DiskSpace
from backend.domain.adapter_files import CONFIG_FILE, MAX_ADAPTER_BYTES, exported_from
from backend.domain.content import (
    ContentCorrupt,
    ContentMissing,
    ContentUnsafe,
    MalformedCid,
    cid_of,
    decode_cid,
)
from backend.domain.errors import Conflict, Unavailable
from backend.domain.ids import Cid
from backend.ports.storage import fetch_nothing
from inference.protocol import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from backend.disk.folder_cache import CachedFolder
    from backend.domain.ids import Hash32
    from backend.domain.receipt import VersionRecord
    from backend.ports.storage import BlobStore, FetchFolder


SHARES = 8
"""Of the disk space, for an adapter of others: four fetches at a time, each into the store and the cache."""
MIN_SPACE = 64 << 20
"""With less, no adapter is fetched."""
ROOM_DIVISOR = 20
"""A disk's bytes divided by it are made free for adapters to come, but no more than the largest one needs."""
READ_BYTES = 1 << 20
IN_USE_SECONDS = 3600.0
"""A folder stays for so long after each use: longer than it is read by what does not call `keep_in_use`."""

log = logging.getLogger(__name__)


class AdapterMissing(Unavailable):
    """The version is registered, but no reachable operator holds its folder."""


class AdapterFolders:
    """`fetch_folder` fetches a folder that the store lacks, if `check` does not refuse the adapter by its
    digest. Folders leave `reserved` bytes of the disk free.
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
        check: Callable[[Hash32], None] = lambda _: None,
    ) -> None:
        self._store, self._fetch_folder, self._check = store, fetch_folder, check
        self._cache, self._exports = FolderCache(root), [FolderCache(each) for each in exports]
        self._space, self._in_use_seconds, self._clock = DiskSpace(root, reserved), in_use_seconds, clock
        self._lock, self._evicting = threading.Lock(), threading.Lock()
        self._fetching: dict[Cid, threading.Lock] = {}

    def cached(self, record: VersionRecord) -> Path | None:
        """The folder if it is in the cache, where it stays for `in_use_seconds`."""
        return self._cache.use(cid_of(record.cid_digest))

    def folder(self, record: VersionRecord) -> Path:
        """The folder, as `cached`; blocks while it is fetched. Raises AdapterMissing, ContentCorrupt,
        ContentUnsafe, DiskFull, or what `check` raises.
        """
        return self.cached(record) or self._fetch(record)

    def fetch(self, record: VersionRecord, destination: Path) -> Cid:
        """Copy the folder to a path that does not exist yet. Raises as `folder`, and Conflict."""
        self._write(record, destination)
        return cid_of(record.cid_digest)

    def open(self, cid: Cid, name: str) -> Iterator[bytes]:
        """Content of a file of the cached folder in chunks. Errors: `ContentMissing`."""
        try:
            yield from pieces(self._cache.root / cid / name, READ_BYTES)
        except OSError as error:
            raise ContentMissing(f"{name} of {cid} is not cached: {error}", "cid", {"cid": cid}) from error

    def drop(self, cid: Cid) -> None:
        """Delete the cached folder. No running answer may use it."""
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

    def _fetch(self, record: VersionRecord) -> Path:
        cid = cid_of(record.cid_digest)
        path = self._cache.root / cid
        with self._lock:
            turn = self._fetching.setdefault(cid, threading.Lock())
        try:
            with turn:  # one fetch per CID; callers that waited find the folder
                if self._cache.use(cid) is None:
                    self._cache.root.mkdir(parents=True, exist_ok=True)
                    try:
                        self._write(record, path)
                    except (Conflict, OSError):
                        if self._cache.use(cid) is None:  # or another process was faster
                            raise
        finally:
            with self._lock:
                self._fetching.pop(cid, None)
        return path

    def _write(self, record: VersionRecord, path: Path) -> None:
        """Write the folder to `path`, from the store or else from other operators."""
        cid = cid_of(record.cid_digest)
        if not self._store.has(cid):
            self._check(record.adapter_digest)
        self._make_room(cid)
        self._space.require(MIN_SPACE)
        self._fetch_folder(cid, min(MAX_ADAPTER_BYTES, self._space.left // SHARES))
        try:
            num_bytes = sum(self._store.names(cid).values())
            if num_bytes <= MAX_ADAPTER_BYTES:  # others are refused, however much room there is
                self._space.require(num_bytes)
            self._store.fetch_folder(cid, path, max_bytes=MAX_ADAPTER_BYTES)
        except (ContentMissing, ContentCorrupt) as error:
            if cid in self._store.copies(inf):
                self._store.unpin(cid)  # it is damaged, as of a backup, and the next request fetches it again
            if isinstance(error, ContentCorrupt):
                raise
            raise AdapterMissing(
                f"No reachable operator has the adapter's folder {cid} now; nothing was charged, try again.",
                details={"cid": cid},
            ) from error

    def _make_room(self, coming: Cid) -> None:
        """Delete folders that were not used for `in_use_seconds`, least recently used first, while there is
        little room. Of those that were fetched from other operators the store's copies go too. None goes that
        would then find no room again, nor what the store has of `coming`.
        """
        room = min(SHARES * MAX_ADAPTER_BYTES, self._space.total // ROOM_DIVISOR)
        with self._evicting:
            if self._space.left >= room:
                return
            self._cache.sweep(".*")
            before = self._clock() - self._in_use_seconds
            # More than that: each eviction reads the nodes of all that is stored.
            missing = room + room // 4 - self._space.left
            unused = self._unused_adapters(before, coming, room), *self._unused_exports(before)
            folders = _up_to(missing, heapq.merge(*unused, key=lambda each: each.used_at))
            copies = [Cid(each.path.name) for each in folders if self._is_fetched_again(each, room)]
            # The store's copies first: a folder that a crash leaves can be served, and is found again.
            self._store.evict(*copies, *self._orphans(before, coming, room))
            for each in folders:
                FolderCache(each.path.parent).drop(each.path.name, before)
            if folders:
                log.info("deleted %d folders of adapters that were used least recently", len(folders))

    def _unused_adapters(self, before: float, coming: Cid, room: int) -> Iterator[CachedFolder]:
        """Those that find room again: fetched, or written from the store."""
        for each in self._cache.least_recent(before):
            cid = Cid(each.path.name)
            if cid == coming or not _is_cid(cid):
                continue
            if self._is_fetched_again(each, room) or (each.num_bytes <= room and self._store.has(cid)):
                yield each

    def _is_fetched_again(self, folder: CachedFolder, room: int) -> bool:
        """Whether it is an adapter's, and `_write` fetches so much when there is so much room."""
        return folder.path.parent == self._cache.root and folder.num_bytes <= room // SHARES

    def _unused_exports(self, before: float) -> list[list[CachedFolder]]:
        """Of each folder for vLLM servers on this disk."""
        here = [each for each in self._exports if each.root.is_dir() and self._space.is_disk_of(each.root)]
        return [
            [each for each in exports.least_recent(before) if exported_from(each.read(CONFIG_FILE))]
            for exports in here
        ]

    def _orphans(self, before: float, coming: Cid, room: int) -> list[Cid]:
        """Copies in the store without a folder: a process ended, or what was fetched is no adapter. None that
        could be served, but not be fetched again.
        """
        copies = (cid for cid in self._store.copies(before) if cid != coming and cid not in self._fetching)
        orphans = (cid for cid in copies if not (self._cache.root / cid).is_dir())
        return [cid for cid in orphans if not room // SHARES < self._num_stored(cid) <= MAX_ADAPTER_BYTES]

    def _num_stored(self, cid: Cid) -> int:
        """Bytes of the folder's files in the store; 0 if it cannot be read."""
        try:
            return sum(self._store.names(cid).values())
        except (ContentMissing, ContentCorrupt, ContentUnsafe, OSError):
            return 0


def _up_to(num_bytes: int, folders: Iterable[CachedFolder]) -> list[CachedFolder]:
    """The first ones, of so many bytes together."""
    found = []
    for each in folders:
        if num_bytes <= 0:
            break
        num_bytes -= each.num_bytes
        found.append(each)
    return found


def _is_cid(name: str) -> bool:
    """Disks have folders of other names at their root, as `lost+found`."""
    try:
        decode_cid(name)
    except MalformedCid:
        return False
    return True


def adapter_ref(record: VersionRecord, folder: Path) -> AdapterRef:
    """The engine's reference to a version's adapter in `folder`."""
    return AdapterRef(record.adapter_digest.removeprefix("0x"), str(folder))
