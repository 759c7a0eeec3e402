"""Folder operations that all block stores share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from backend.domain.content import decode_cid
from backend.domain.ids import Cid
from backend.storage.reader import TreeReader
from backend.storage.unixfs import import_tree, tree_of_directory, tree_of_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from backend.domain.content import DecodedCid
    from backend.storage.reader import Entry
    from backend.storage.unixfs import Tree


class FolderStore(ABC):
    """Implements the part of `backend.ports.storage.BlobStore` that needs only block reads and `_add`."""

    def __init__(self, fetch: Callable[[DecodedCid], bytes]) -> None:
        """`fetch` returns an unverified block, or raises `ContentMissing` or `Unavailable`."""
        self._reader = TreeReader(fetch)

    def _reader_of(self, _cid: Cid) -> TreeReader:
        """Reader of the tree below a CID. Stores that keep each tree apart have one for each."""
        return self._reader

    @abstractmethod
    def _add(self, tree: Tree) -> Cid:
        """Store and pin a tree."""

    @abstractmethod
    def has(self, cid: Cid) -> bool: ...

    @abstractmethod
    def add_car(self, cid: Cid, car: Iterable[bytes]) -> None: ...

    def add_copy(self, cid: Cid, car: Iterable[bytes]) -> None:
        self.add_car(cid, car)

    def keep(self, cid: Cid) -> bool:
        return self.has(cid)

    def evict(self, *cids: Cid) -> None:  # noqa: B027 - only a store on our disk makes room by it
        """Deletes nothing."""

    def copies(self, before: float) -> list[Cid]:  # noqa: ARG002 - none is deleted
        return []

    def delete_forgotten(self) -> None:  # noqa: B027 - most stores delete what they forget
        """Deletes nothing."""

    def folder_cid(self, files: Mapping[str, Path | bytes]) -> Cid:
        return folder_cid(files)

    def directory_cid(self, path: Path) -> Cid:
        return Cid(str(import_tree(tree_of_directory(path), lambda _cid, _block: None).cid))

    def add_folder(self, files: Mapping[str, Path | bytes]) -> Cid:
        return self._add(tree_of_files(files))

    def add_directory(self, path: Path) -> Cid:
        return self._add(tree_of_directory(path))

    def read(self, cid: Cid, name: str) -> bytes:
        return b"".join(self.open(cid, name))

    def open(self, cid: Cid, name: str) -> Iterator[bytes]:
        return self._reader_of(cid).open(cid, name)

    def entries(self, cid: Cid) -> list[Entry]:
        """Files and folders below the folder, a folder before its contents."""
        return self._reader_of(cid).entries(cid)

    def names(self, cid: Cid) -> dict[str, int]:
        return {entry.path: entry.size for entry in self.entries(cid) if entry.size is not None}

    def fetch_folder(self, cid: Cid, destination: Path, max_bytes: int | None = None) -> None:
        self._reader_of(cid).fetch_folder(cid, destination, max_bytes)

    def block(self, cid: Cid) -> bytes:
        return self._reader_of(cid).block(decode_cid(cid))

    def cids(self, cid: Cid) -> Iterator[Cid]:
        return (Cid(str(one)) for one in self._reader_of(cid).cids(decode_cid(cid)))

    def car(self, cid: Cid) -> Iterator[bytes]:
        return self._reader_of(cid).car(cid)


def folder_cid(files: Mapping[str, Path | bytes]) -> Cid:
    """The folder's CID, which is the same in every store. Stores nothing."""
    return Cid(str(import_tree(tree_of_files(files), lambda _cid, _block: None).cid))
