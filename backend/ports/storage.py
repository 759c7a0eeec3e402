"""Where published bytes live: content-addressed folders, whatever keeps their blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from backend.domain.ids import Account, Cid


class Bring(Protocol):
    def __call__(self, cid: Cid, max_bytes: int, first: Account | None = None) -> None:
        """Have a folder of at most so many bytes in our store, if anybody gives it: `first` before others."""
        ...


def bring_nothing(cid: Cid, max_bytes: int, first: Account | None = None) -> None:
    """Where nobody else is asked."""


class BlobStore(Protocol):
    """UnixFS folders by CIDv1. The same folder has the same CID in every implementation and in Kubo
    (`ipfs add --cid-version 1 --raw-leaves --chunker size-262144`).

    Every block is checked against its CID whenever it is read. A `name` is a path within the folder with
    `/` between its parts, empty for a CID that is itself a file. Errors: `MalformedCid`, `ContentMissing`,
    `ContentCorrupt`, `ContentUnsafe` of `backend.domain.content`; `Unavailable` if there is no reaching it.
    """

    def folder_cid(self, files: Mapping[str, Path | bytes]) -> Cid:
        """The CID that `add_folder` would give; stores nothing."""
        ...

    def add_folder(self, files: Mapping[str, Path | bytes]) -> Cid:
        """Store and pin a folder of these files. All of it or nothing is pinned; adding again is harmless."""
        ...

    def add_car(self, cid: Cid, car: Iterable[bytes]) -> None:
        """Store and pin the folder from a stranger's CARv1, in pieces as they arrive.

        Nothing is pinned unless the CAR is of this folder, whole, and of nothing else: each block must have
        been named by one before it. Errors: `ContentCorrupt`, and what the pieces raise.
        """
        ...

    def add_directory(self, path: Path) -> Cid:
        """Store and pin a folder from disk, empty folders and dot-files included. Links are refused."""
        ...

    def read(self, cid: Cid, name: str) -> bytes:
        """One file, whole."""
        ...

    def open(self, cid: Cid, name: str) -> Iterator[bytes]:
        """One file, in chunks of at most 2 MiB, each verified before it is yielded."""
        ...

    def names(self, cid: Cid) -> dict[str, int]:
        """Files of the folder and of those within it: path -> bytes, in the folder's order."""
        ...

    def fetch_folder(self, cid: Cid, destination: Path, max_bytes: int | None = None) -> None:
        """Write the folder to `destination`, which must not exist; it appears whole or not at all.

        Errors: `ContentUnsafe` before anything is written if its files together exceed `max_bytes`.
        """
        ...

    def has(self, cid: Cid) -> bool:
        """Whether the store pins this folder, so that all of it is there."""
        ...

    def unpin(self, cid: Cid) -> None:
        """Stop keeping the folder. Unknown or not pinned is no error."""
        ...

    def forget(self, *cids: Cid) -> None:
        """Unpin these folders, and delete the blocks that no other pin needs: ours at once, a daemon its own
        by its own rules.
        """
        ...

    def block(self, cid: Cid) -> bytes:
        """One verified block."""
        ...

    def car(self, cid: Cid) -> Iterator[bytes]:
        """CARv1 of everything below `cid`, depth first, each block once."""
        ...
