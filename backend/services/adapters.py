"""Adapter folders on this machine, by content: fetched once, verified, shared by all requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from backend.domain.content import cid_of
from backend.ports.engine import AdapterFolder

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Cid
    from backend.domain.receipt import VersionRecord
    from backend.ports.storage import BlobStore

MAX_ADAPTER_BYTES = 1 << 31


class AdapterFolders:
    def __init__(self, store: BlobStore, root: Path) -> None:
        self._store = store
        self._root = root
        self._lock = threading.Lock()
        self._fetching: dict[Cid, threading.Lock] = {}

    def folder(self, record: VersionRecord) -> AdapterFolder:
        """The version's folder. Blocks while it is fetched; errors are those of `BlobStore.fetch_folder`."""
        cid = cid_of(record.cid_digest)
        path = self._root / cid
        if not path.is_dir():
            self._fetch(cid, path)
        return AdapterFolder(record.adapter_digest, path)

    def _fetch(self, cid: Cid, path: Path) -> None:
        with self._lock:
            turn = self._fetching.setdefault(cid, threading.Lock())
        with turn:  # one fetch for each content; whoever waited finds the folder
            if not path.is_dir():
                self._root.mkdir(parents=True, exist_ok=True)
                self._store.fetch_folder(cid, path, max_bytes=MAX_ADAPTER_BYTES)
        with self._lock:
            self._fetching.pop(cid, None)
