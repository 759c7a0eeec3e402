"""Port of the content-addressed store of published folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from backend.domain.ids import Account, Cid


class FetchFolder(Protocol):
    """Fetches folders from other operators."""

    def __call__(self, cid: Cid, max_bytes: int, first: Account | None = None) -> None:
        """Fetch a folder of at most `max_bytes` from another operator into our store; ask `first` first."""
        ...


def fetch_nothing(cid: Cid, max_bytes: int, first: Account | None = None) -> None:
    """Fetches nothing: for installations without peers."""


class BlobStore(Protocol):
    """UnixFS folders by CIDv1. The same folder has the same CID in every implementation and in Kubo
    (`ipfs add --cid-version 1 --raw-leaves --chunker size-262144`).

    Every block is verified against its CID when it is read. A `name` is a path within the folder, separated
    by `/`; it is empty for a CID that is a file. Errors: `MalformedCid`, `ContentMissing`, `ContentCorrupt`,
    `ContentUnsafe` of `backend.domain.content`; `Unavailable` if the store cannot be reached.
    """

    def folder_cid(self, files: Mapping[str, Path | bytes]) -> Cid:
        """The CID that `add_folder` would return; stores nothing."""
        ...

    def directory_cid(self, path: Path) -> Cid:
        """The CID that `add_directory` would return; stores nothing."""
        ...

    def add_folder(self, files: Mapping[str, Path | bytes]) -> Cid:
        """Store and pin a folder of these files, atomically. Idempotent."""
        ...

    def add_car(self, cid: Cid, car: Iterable[bytes]) -> None:
        """Store and pin a folder from an untrusted CARv1, given in chunks.

        The folder is pinned only if the CAR has all of its blocks and no others: each block must be linked by
        an earlier one. Errors: `ContentCorrupt`, and what iterating over `car` raises.
        """
        ...

    def add_copy(self, cid: Cid, car: Iterable[bytes]) -> None:
        """As `add_car`, for a folder that can be fetched again: `evict` may delete it until it is added in
        another way, or kept.
        """
        ...

    def keep(self, cid: Cid) -> bool:
        """Have `evict` leave the folder alone from now on. Returns whether the store has it, as `has`."""
        ...

    def evict(self, *cids: Cid) -> None:
        """Delete those of these folders that are copies. The embedded store, which lies on the disk of this
        installation, deletes them at once, unless a folder is being added, or it cannot tell which blocks are
        theirs alone; a bucket and an IPFS daemon keep them.
        """
        ...

    def copies(self, before: float) -> list[Cid]:
        """Copies that were added before this Unix time and that `evict` would delete."""
        ...

    def add_directory(self, path: Path) -> Cid:
        """Store and pin a folder from disk, with empty folders and dot-files. Symbolic links are refused."""
        ...

    def read(self, cid: Cid, name: str) -> bytes:
        """Content of one file."""
        ...

    def open(self, cid: Cid, name: str) -> Iterator[bytes]:
        """Content of one file in chunks of at most 2 MiB, each verified before it is yielded."""
        ...

    def names(self, cid: Cid) -> dict[str, int]:
        """All files below the folder: path -> size in bytes, in the folder's order."""
        ...

    def fetch_folder(self, cid: Cid, destination: Path, max_bytes: int | None = None) -> None:
        """Write the folder to `destination`, which must not exist. It appears atomically.

        Errors: `ContentUnsafe`, before anything is written, if its files exceed `max_bytes` in total.
        """
        ...

    def has(self, cid: Cid) -> bool:
        """Whether the store pins this folder and so has all of it."""
        ...

    def unpin(self, cid: Cid) -> None:
        """Unpin the folder. Ignores folders that are unknown or not pinned."""
        ...

    def forget(self, *cids: Cid) -> None:
        """Unpin these folders and delete blocks that no other pin needs. An IPFS daemon deletes them by
        `delete_forgotten`, other stores at once.
        """
        ...

    def delete_forgotten(self) -> None:
        """Delete forgotten folders that are still stored. An IPFS daemon collects its garbage: this takes
        minutes if it has many blocks, and the daemon adds no folder until it is done.
        """
        ...

    def block(self, cid: Cid) -> bytes:
        """One verified block."""
        ...

    def cids(self, cid: Cid) -> Iterator[Cid]:
        """Of all blocks below `cid` and of itself, each once."""
        ...

    def car(self, cid: Cid) -> Iterator[bytes]:
        """CARv1 of all blocks below `cid`, depth first, each once."""
        ...
