from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from backend.domain.content import cid_of
from backend.services.market.adapter_folders import AdapterFolders, AdapterMissing, adapter_ref
from backend.storage.embedded import EmbeddedStore
from tests.support.fakes import FakeBlobStore
from tests.support.market import Market

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.receipt import VersionRecord


@pytest.fixture
def record() -> VersionRecord:
    return next(iter(Market().records.values()))


def test_a_folder_is_fetched_once_however_many_ask(tmp_path: Path, record: VersionRecord) -> None:
    store = FakeBlobStore()
    folders = AdapterFolders(store, tmp_path / "adapters")  # type: ignore[arg-type]
    start = threading.Barrier(8)
    found: list[object] = []

    def ask() -> None:
        start.wait()
        found.append(folders.folder(record))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.num_fetches == 1
    assert len(set(map(repr, found))) == 1
    assert f"0x{adapter_ref(record, folders.folder(record)).digest}" == record.adapter_digest


def test_a_missing_folder_can_be_requested_again(tmp_path: Path, record: VersionRecord) -> None:
    folders = AdapterFolders(EmbeddedStore(tmp_path / "ipfs", is_durable=False), tmp_path / "adapters")
    for _ in range(2):
        with pytest.raises(AdapterMissing) as caught:
            folders.folder(record)
    assert caught.value.details["cid"] == cid_of(record.cid_digest)
