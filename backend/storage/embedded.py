"""The default block store: IPFS CIDs and Kubo's on-disk layout, without a daemon."""

from __future__ import annotations

import fcntl
import logging
from contextlib import contextmanager, suppress
from math import inf
from typing import TYPE_CHECKING

from backend.disk.locks import locked
from backend.domain.content import ContentCorrupt, ContentMissing, DecodedCid, decode_cid
from backend.domain.ids import Cid
from backend.storage.car import read_car, spooled_tree
from backend.storage.flatfs import FlatFs, key_of, leaf_of
from backend.storage.folders import FolderStore
from backend.storage.unixfs import Tree, import_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

log = logging.getLogger(__name__)

COPY = b"copy"
"""Content of the pins of copies, which may be evicted. Other pins are empty."""


class EmbeddedStore(FolderStore):
    """Implements `backend.ports.storage.BlobStore` in `root`: `blocks/` as in Kubo, `pins/` with a file per
    pin.

    Safe for concurrent use by several processes.
    """

    def __init__(self, root: Path, *, is_durable: bool = True) -> None:
        self._root = root
        self._pins = root / "pins"
        self._pins.mkdir(parents=True, exist_ok=True)
        self._blocks = FlatFs(root / "blocks", is_durable=is_durable)
        super().__init__(self._blocks.get)

    def has(self, cid: Cid) -> bool:
        return (self._pins / str(decode_cid(cid))).exists()

    def unpin(self, cid: Cid) -> None:
        (self._pins / str(decode_cid(cid))).unlink(missing_ok=True)

    def forget(self, *cids: Cid) -> None:
        for cid in cids:
            self.unpin(cid)
        with self._lock(fcntl.LOCK_EX):
            self._delete_unpinned(forgotten=cids)

    def pin(self, cid: Cid) -> None:
        """Pin a stored tree. Errors: `ContentMissing` if a block of it is missing, `ContentCorrupt`."""
        with self._lock(fcntl.LOCK_SH):
            self._pin(decode_cid(cid))

    def pins(self) -> list[Cid]:
        return sorted(Cid(path.name) for path in self._pins.iterdir())

    def import_car(self, stream: BinaryIO) -> Cid:
        """Store and pin the tree of a CARv1. Errors: `ContentCorrupt`, also if the tree is incomplete."""
        root, blocks = read_car(stream)
        with self._lock(fcntl.LOCK_SH):
            for cid, block in blocks:
                self._blocks.put(cid, block)
            try:
                self._pin(root)
            except ContentMissing as error:
                raise ContentCorrupt(f"the CAR of {root} lacks a block: {error}") from error
        return Cid(str(root))

    def add_car(self, cid: Cid, car: Iterable[bytes]) -> None:
        root = decode_cid(cid)
        with self._adding(root, car):
            self._write_pin(root)

    def add_copy(self, cid: Cid, car: Iterable[bytes]) -> None:
        root = decode_cid(cid)
        # Replaces no pin. A crash may leave an empty one, with which the folder is kept.
        with self._adding(root, car), suppress(FileExistsError), (self._pins / str(root)).open("xb") as pin:
            pin.write(COPY)

    def keep(self, cid: Cid) -> bool:
        with self._lock(fcntl.LOCK_SH):
            if not self.has(cid):
                return False
            # Replaces also an empty pin, to which `add_copy` may be about to write.
            self._write_pin(decode_cid(cid))
            return True

    def evict(self, *cids: Cid) -> None:
        if set(cids).isdisjoint(self.copies(inf)):
            return  # without a look at all that is stored
        with suppress(BlockingIOError), self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._delete_unpinned(evicted=cids)

    def copies(self, before: float) -> list[Cid]:
        found = []
        for path in self._pins.iterdir():
            with suppress(FileNotFoundError):  # another process unpinned it
                if path.stat().st_mtime < before and path.read_bytes() == COPY:
                    found.append(Cid(path.name))
        return found

    def collect_garbage(self) -> list[Cid]:
        """Delete unpinned blocks, and what interrupted additions left. Waits for additions in progress.

        Of the pinned trees only the blocks with links are read. While one of these cannot be read, the blocks
        below it are unknown, and no blocks are deleted. A copy with such a block is unpinned instead.

        Returns the CIDs of the deleted blocks, with the codec `raw`: keys do not contain the codec.
        """
        with self._lock(fcntl.LOCK_EX):
            return self._delete_unpinned()

    def _delete_unpinned(self, forgotten: Collection[Cid] = (), evicted: Collection[Cid] = ()) -> list[Cid]:
        """`collect_garbage`, to be called with the exclusive lock. The blocks of forgotten trees are deleted
        in any case, evicted copies only while all blocks of other pinned trees are known.
        """
        self._blocks.remove_drafts()
        copies = self.copies(inf)
        pinned, is_complete = self._reachable(set(self.pins()).difference(copies))
        for cid in copies:
            if is_complete and cid in evicted:
                self.unpin(cid)
                continue
            below, is_whole = self._reachable([cid])
            if is_whole:
                pinned |= below
            else:
                self.unpin(cid)  # it can be fetched again
        # An unpinned block may be the only copy of one below a node that cannot be read, and be needed
        # once that node is restored. Forgotten content must go all the same: it may be withdrawn.
        candidates = set(self._blocks.keys()) if is_complete else self._reachable(forgotten)[0]
        unpinned = sorted(candidates - pinned)
        for key in unpinned:
            self._blocks.remove(key)
        return [Cid(str(leaf_of(key))) for key in unpinned]

    def _reachable(self, roots: Iterable[Cid]) -> tuple[set[str], bool]:
        """Keys of the blocks of these trees, and whether they are all: below a node that cannot be read none
        is known.
        """
        seen: set[DecodedCid] = set()
        pending = [decode_cid(root) for root in roots]
        is_complete = True
        while pending:
            cid = pending.pop()
            if cid in seen:
                continue
            seen.add(cid)
            try:
                pending.extend(self._reader.links(cid))
            except (ContentMissing, ContentCorrupt, OSError) as error:  # as of a disk that fails
                is_complete = False
                log.warning("block %s cannot be read, so those below it are unknown: %s", cid, error)
        return {key_of(cid) for cid in seen}, is_complete

    @contextmanager
    def _adding(self, root: DecodedCid, car: Iterable[bytes]) -> Iterator[None]:
        """Store the blocks of a CAR; the caller pins them in the `with` block. Deletions wait for the lock,
        which is taken only once the whole CAR has been received.
        """
        with spooled_tree(root, car, self._root) as file, self._lock(fcntl.LOCK_SH):
            for cid, block in read_car(file)[1]:
                self._blocks.put(cid, block)
            yield

    def _add(self, tree: Tree) -> Cid:
        with self._lock(fcntl.LOCK_SH):
            added = import_tree(tree, self._blocks.put)
            self._write_pin(added.cid)
        return Cid(str(added.cid))

    def _pin(self, root: DecodedCid) -> None:
        for _ in self._reader.blocks(root):  # reading a block verifies it
            pass
        self._write_pin(root)

    def _write_pin(self, cid: DecodedCid) -> None:
        self._blocks.write(self._pins / str(cid), b"")

    def _lock(self, mode: int) -> AbstractContextManager[None]:
        """Shared for additions, exclusive for garbage collection, which deletes blocks not pinned yet.

        Errors: `BlockingIOError` with `LOCK_NB`.
        """
        return locked(self._root / "gc.lock", mode)
