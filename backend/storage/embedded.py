"""The default block store: IPFS's content ids and on-disk layout without a daemon."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.domain.content import ContentCorrupt, ContentMissing, DecodedCid, decode_cid
from backend.domain.ids import Cid
from backend.storage.car import read_car, read_tree
from backend.storage.flatfs import FlatFs, key_of, leaf_of
from backend.storage.folders import FolderStore
from backend.storage.unixfs import Tree, import_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO


class EmbeddedStore(FolderStore):
    """Implements `backend.ports.storage.BlobStore` in `root`: `blocks/` as in Kubo, `pins/` a file a pin.

    Any number of processes may use one `root`.
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
        self.collect_garbage()

    def pin(self, cid: Cid) -> None:
        """Keep what is already here. Errors: `ContentMissing` if a block below is not, `ContentCorrupt`."""
        with self._lock(fcntl.LOCK_SH):
            self._pin(decode_cid(cid))

    def pins(self) -> list[Cid]:
        return sorted(Cid(path.name) for path in self._pins.iterdir())

    def import_car(self, stream: BinaryIO) -> Cid:
        """Store and pin the tree of a CARv1. Errors: `ContentCorrupt`, also if the tree is not whole."""
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
        with self._lock(fcntl.LOCK_SH):
            for below, block in read_tree(root, car):
                self._blocks.put(below, block)
            self._write_pin(root)

    def collect_garbage(self) -> list[Cid]:
        """Delete the blocks that no pin needs, once no addition is under way.

        Returns them, named as leaves: a block's key does not tell its codec.
        """
        with self._lock(fcntl.LOCK_EX):
            roots = map(decode_cid, self.pins())
            needed = {key_of(cid) for root in roots for cid, _ in self._reader.blocks(root)}
            unneeded = [key for key in self._blocks.keys() if key not in needed]  # noqa: SIM118 - not a mapping
            for key in unneeded:
                self._blocks.remove(key)
        return [Cid(str(leaf_of(key))) for key in unneeded]

    def _add(self, tree: Tree) -> Cid:
        with self._lock(fcntl.LOCK_SH):
            added = import_tree(tree, self._blocks.put)
            self._write_pin(added.cid)
        return Cid(str(added.cid))

    def _pin(self, root: DecodedCid) -> None:
        for _ in self._reader.blocks(root):  # reads, hence verifies, every block
            pass
        self._write_pin(root)

    def _write_pin(self, cid: DecodedCid) -> None:
        self._blocks.write(self._pins / str(cid), b"")

    @contextmanager
    def _lock(self, mode: int) -> Iterator[None]:
        """Additions share it; garbage collection holds it alone, else blocks not yet pinned would go."""
        with (self._root / "gc.lock").open("ab") as file:
            fcntl.flock(file, mode)
            yield
