"""Local cache of adapter folders by CID: each is fetched once, verified, and shared by all requests."""

from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING

from backend.domain.adapter_files import CONFIG_FILE, MAX_ADAPTER_BYTES
from backend.domain.content import ContentMissing, cid_of
from backend.domain.errors import Conflict, Unavailable
from backend.ports.storage import fetch_nothing
from backend.services.disk_space import DiskSpace
from inference.protocol import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.domain.ids import Cid, Hash32
    from backend.domain.receipt import VersionRecord
    from backend.ports.storage import BlobStore, FetchFolder


SHARES = 8
"""Of the disk space: four fetches at a time, each with a copy in the store and one in the cache."""
MIN_SPACE = 64 << 20
"""With less, no adapter is fetched."""


class AdapterMissing(Unavailable):
    """The version is registered, but no reachable operator holds its folder."""


class AdapterFolders:
    """`fetch_folder` fetches a folder that the store lacks. Folders leave `reserved` bytes of the disk free.
    `exports`: where folders are written for vLLM servers, each with the digests of its adapters in
    `exported_from` of its configuration.
    """

    def __init__(
        self,
        store: BlobStore,
        root: Path,
        fetch_folder: FetchFolder = fetch_nothing,
        exports: Sequence[Path] = (),
        reserved: int = 0,
    ) -> None:
        self._store, self._fetch_folder = store, fetch_folder
        self._root, self._exports, self._space = root, exports, DiskSpace(root, reserved)
        self._lock = threading.Lock()
        self._fetching: dict[Cid, threading.Lock] = {}

    def cached(self, record: VersionRecord) -> Path | None:
        """The folder if it is in the cache."""
        path = self._path(record)
        return path if path.is_dir() else None

    def folder(self, record: VersionRecord) -> Path:
        """The folder; blocks while it is fetched. Raises AdapterMissing, ContentCorrupt, ContentUnsafe or
        DiskFull.
        """
        cid = cid_of(record.cid_digest)
        path = self._path(record)
        if not path.is_dir():
            self._fetch(cid, path)
        return path

    def fetch(self, record: VersionRecord, destination: Path) -> Cid:
        """Copy the folder to a path that does not exist yet. Raises as `folder`, and Conflict."""
        cid = cid_of(record.cid_digest)
        self._download(cid, destination)
        return cid

    def drop(self, cid: Cid) -> None:
        """Delete the copy. No running answer may use it."""
        shutil.rmtree(self._root / cid, ignore_errors=True)

    def drop_exports(self, adapter: Hash32) -> None:
        """Delete what was written of an adapter for a vLLM server, blends with it included. No running answer
        may use it.
        """
        digest = adapter.removeprefix("0x")
        for folder in [each for root in self._exports if root.is_dir() for each in root.iterdir()]:
            try:
                parts = json.loads((folder / CONFIG_FILE).read_bytes())["exported_from"]
            except (OSError, ValueError, KeyError):
                continue  # of another program, or being written
            if digest in parts:
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, record: VersionRecord) -> Path:
        return self._root / cid_of(record.cid_digest)

    def _fetch(self, cid: Cid, path: Path) -> None:
        with self._lock:
            turn = self._fetching.setdefault(cid, threading.Lock())
        try:
            with turn:  # one fetch per CID; callers that waited find the folder
                if not path.is_dir():
                    self._root.mkdir(parents=True, exist_ok=True)
                    try:
                        self._download(cid, path)
                    except (Conflict, OSError):
                        if not path.is_dir():  # or another process was faster
                            raise
        finally:
            with self._lock:
                self._fetching.pop(cid, None)

    def _download(self, cid: Cid, path: Path) -> None:
        self._space.require(MIN_SPACE)
        max_bytes = min(MAX_ADAPTER_BYTES, self._space.left // SHARES)
        self._fetch_folder(cid, max_bytes)
        try:
            self._store.fetch_folder(cid, path, max_bytes=max_bytes)
        except ContentMissing as error:
            raise AdapterMissing(
                f"No reachable operator has the adapter's folder {cid} now; nothing was charged, try again.",
                details={"cid": cid},
            ) from error


def adapter_ref(record: VersionRecord, folder: Path) -> AdapterRef:
    """The engine's reference to a version's adapter in `folder`."""
    return AdapterRef(record.adapter_digest.removeprefix("0x"), str(folder))
