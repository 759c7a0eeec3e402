from __future__ import annotations

import errno
import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.content import cid_of
from backend.domain.denials import ModelDenied
from backend.domain.errors import DiskFull
from backend.domain.ids import Hash32
from backend.services.market.adapter_folders import MIN_SPACE, AdapterFolders, AdapterMissing, adapter_ref
from backend.storage.embedded import EmbeddedStore
from tests.support.fakes import FakeBlobStore
from tests.support.market import Market

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account, Cid
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


def test_a_folder_that_another_process_fetches_at_the_same_time_is_used(
    tmp_path: Path, record: VersionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeBlobStore()
    folders = AdapterFolders(store, tmp_path / "adapters")  # type: ignore[arg-type]
    fetch = store.fetch_folder

    def fetch_late(*args: Any, **options: Any) -> None:
        fetch(*args, **options)
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(store, "fetch_folder", fetch_late)
    assert folders.folder(record).is_dir()


def test_a_missing_folder_can_be_requested_again(tmp_path: Path, record: VersionRecord) -> None:
    folders = AdapterFolders(EmbeddedStore(tmp_path / "ipfs", is_durable=False), tmp_path / "adapters")
    for _ in range(2):
        with pytest.raises(AdapterMissing) as caught:
            folders.folder(record)
    assert caught.value.details["cid"] == cid_of(record.cid_digest)


def test_a_denied_adapter_is_not_fetched_from_other_operators(tmp_path: Path, record: VersionRecord) -> None:
    def refuse(adapter: Hash32) -> None:
        raise ModelDenied(f"{adapter} is denied")

    def fetch(cid: Cid, max_bytes: int, first: Account | None = None) -> None:
        pytest.fail(f"{cid} was fetched")

    store = EmbeddedStore(tmp_path / "ipfs", is_durable=False)
    with pytest.raises(ModelDenied, match=record.adapter_digest):
        AdapterFolders(store, tmp_path / "adapters", fetch, check=refuse).folder(record)


def test_a_folder_is_fetched_only_while_the_disk_has_space_and_a_cached_one_is_served(
    tmp_path: Path, record: VersionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, store = SimpleNamespace(free=MIN_SPACE + 99, total=1 << 30), FakeBlobStore()
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk)
    folders = AdapterFolders(store, tmp_path / "adapters", reserved=100)  # type: ignore[arg-type]
    with pytest.raises(DiskFull):
        folders.folder(record)
    disk.free = MIN_SPACE + 100
    found = folders.folder(record)
    disk.free = 0
    assert folders.folder(record) == found
    assert store.num_fetches == 1


def test_exports_of_an_adapter_are_dropped_with_its_blends(tmp_path: Path) -> None:
    exports = tmp_path / "vllm"
    taken, other = "a" * 64, "b" * 64
    for name, parts in {taken: [taken], other: [other], "c" * 64: [other, taken]}.items():
        (exports / name).mkdir(parents=True)
        (exports / name / "adapter_config.json").write_text(json.dumps({"exported_from": parts}))
    (exports / ".draft-x").mkdir()
    roots = [tmp_path / "unused", exports]
    folders = AdapterFolders(FakeBlobStore(), tmp_path / "adapters", exports=roots)  # type: ignore[arg-type]
    for _ in range(2):
        folders.drop_exports(Hash32(f"0x{taken}"))
    assert sorted(path.name for path in exports.iterdir()) == [".draft-x", ".lock", other]
    AdapterFolders(FakeBlobStore(), tmp_path / "adapters").drop_exports(Hash32(f"0x{taken}"))  # type: ignore[arg-type]
