"""Adapters that were used least recently make room for others; what the operator must keep stays."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.disk.folder_cache import RECORD_SECONDS, FolderCache
from backend.domain.content import ContentCorrupt, ContentMissing, ContentUnsafe, cid_digest, cid_of
from backend.domain.errors import DiskFull
from backend.services.market import adapter_folders
from backend.services.market.adapter_folders import (
    IN_USE_SECONDS,
    ROOM_DIVISOR,
    SHARES,
    AdapterFolders,
    AdapterMissing,
)
from backend.storage.embedded import EmbeddedStore
from tests.support.market import Market

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.domain.ids import Account, Cid
    from backend.domain.receipt import VersionRecord

WEIGHTS, ROOM = 300_000, 1_000_000
TOTAL = ROOM_DIVISOR * ROOM
LONG_AGO = 1_000_000_000


class Disk:
    """An operator's disk, with its store and folders of adapters, and the store of another operator."""

    def __init__(self, root: Path) -> None:
        self.root, self.limit, self.fetched = root, TOTAL, 0
        self.ours, self.theirs = (EmbeddedStore(root / name, is_durable=False) for name in ("a", "b"))
        self.exports = root / "vllm"
        self.folders = self.started()

    def started(self, clock: Callable[[], float] = time.time) -> AdapterFolders:
        """As after a restart."""
        exports = [self.exports]
        return AdapterFolders(self.ours, self.root / "adapters", self._fetch, exports, clock=clock)

    def usage(self, _path: Path) -> Any:
        return SimpleNamespace(free=self.limit - self.used, total=TOTAL)

    @property
    def used(self) -> int:
        places = [self.root / "a" / "blocks", self.root / "adapters", self.exports]
        files = [path for place in places for path in place.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)

    def fill(self, free: int = ROOM - 1) -> None:
        """Have others use all but so many bytes; by default a byte less than adapters to come need."""
        self.limit = self.used + free

    def use(self, record: VersionRecord, used_at: float | None = None) -> Path:
        """`used_at`: the time of this use; None for now."""
        folder = self.folders.folder(record)
        if used_at is not None:
            os.utime(folder, (used_at, used_at))
        return folder

    def has(self, record: VersionRecord) -> tuple[bool, bool]:
        """Whether there is a folder, and whether the store has the adapter."""
        cid = cid_of(record.cid_digest)
        return (self.root / "adapters" / cid).is_dir(), self.ours.has(cid)

    def _fetch(self, cid: Cid, _max_bytes: int, _first: Account | None = None) -> None:
        if not self.ours.has(cid):
            self.fetched += 1
            self.ours.add_copy(cid, self.theirs.car(cid))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", disk.usage)
    monkeypatch.setattr(adapter_folders, "MIN_SPACE", 1)
    monkeypatch.setattr(adapter_folders, "SHARES", 2)
    return disk


def adapter(number: int, store: EmbeddedStore) -> VersionRecord:
    cid = store.add_folder({"adapter_model.safetensors": bytes([number]) * WEIGHTS, "card": b"card"})
    record = next(iter(Market().records.values()))
    return replace(record, cid_digest=cid_digest(cid))


def adapter_of(num_bytes: int, store: EmbeddedStore) -> VersionRecord:
    """Its folder has so many bytes."""
    cid = store.add_folder({"adapter_model.safetensors": random.Random(num_bytes).randbytes(num_bytes)})
    return replace(next(iter(Market().records.values())), cid_digest=cid_digest(cid))


WHOLE, FOLDER, STORED, NEITHER = (True, True), (True, False), (False, True), (False, False)


def test_the_least_recently_used_adapter_of_others_makes_room_and_is_fetched_again(disk: Disk) -> None:
    one, two, three, four = (adapter(number, disk.theirs) for number in range(4))
    for used_at, record in enumerate((two, one, three), start=LONG_AGO):
        disk.use(record, used_at)
    disk.fill()
    used = disk.used
    disk.use(four)
    assert [disk.has(each) for each in (two, one, three, four)] == [NEITHER, WHOLE, WHOLE, WHOLE]
    assert disk.used <= used
    assert disk.fetched == 4
    disk.fill()
    folder = disk.use(two)
    assert (folder / "adapter_model.safetensors").read_bytes() == bytes([1]) * WEIGHTS
    assert [disk.has(each) for each in (two, one, three, four)] == [WHOLE, NEITHER, WHOLE, WHOLE]
    assert disk.fetched == 5


def test_nothing_is_deleted_while_there_is_room(disk: Disk) -> None:
    one, two = (adapter(number, disk.theirs) for number in range(2))
    disk.use(one, LONG_AGO)
    disk.fill(ROOM)
    disk.use(two)
    assert [disk.has(each) for each in (one, two)] == [WHOLE, WHOLE]


def test_adapters_in_use_stay_and_others_are_refused_until_they_are_not(disk: Disk) -> None:
    one, two, three = (adapter(number, disk.theirs) for number in range(3))
    disk.use(one, LONG_AGO)
    disk.use(two, LONG_AGO)
    assert disk.folders.cached(one) is not None  # an answer begins
    disk.fill(free=0)
    disk.use(three)
    assert [disk.has(each) for each in (one, two)] == [WHOLE, NEITHER]
    disk.fill(free=0)
    with pytest.raises(DiskFull):
        disk.use(two)
    assert disk.folders.folder(one).is_dir()
    later = time.time() + IN_USE_SECONDS + RECORD_SECONDS + 1
    disk.folders = disk.started(lambda: later)
    disk.use(two)
    assert [disk.has(each) for each in (one, two)] == [NEITHER, WHOLE]


def test_an_adapter_that_is_used_while_others_are_deleted_stays(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (adapter(number, disk.theirs) for number in range(2))
    disk.use(one, LONG_AGO)
    disk.fill()
    evict = disk.ours.evict

    def evict_slowly(*cids: Cid) -> None:
        evict(*cids)
        assert disk.folders.cached(one) is not None

    monkeypatch.setattr(disk.ours, "evict", evict_slowly)
    disk.use(two)
    assert [disk.has(each) for each in (one, two)] == [FOLDER, WHOLE]


def test_of_own_adapters_only_the_second_copy_goes(disk: Disk) -> None:
    own, other = adapter(1, disk.ours), adapter(2, disk.theirs)
    disk.use(own, LONG_AGO)
    upload, batch = (disk.ours.add_folder({"data": content}) for content in (b"rows", b"batch"))
    disk.fill()
    disk.use(other)
    assert [disk.has(each) for each in (own, other)] == [STORED, WHOLE]
    assert [disk.ours.read(cid, "data") for cid in (upload, batch)] == [b"rows", b"batch"]
    disk.fill(ROOM)
    disk.use(own)
    assert (disk.has(own), disk.fetched) == (WHOLE, 1)


def test_an_adapter_that_was_fetched_and_is_then_published_here_is_kept(disk: Disk) -> None:
    one, two = (adapter(number, disk.theirs) for number in range(2))
    disk.use(one, LONG_AGO)
    adapter(0, disk.ours)
    disk.fill()
    disk.use(two)
    assert [disk.has(each) for each in (one, two)] == [STORED, WHOLE]


@pytest.mark.parametrize("step", ["store", "folder"])
def test_a_process_that_ends_while_it_makes_room_leaves_what_can_be_served(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    one, two = (adapter(number, disk.theirs) for number in range(2))
    disk.use(one, LONG_AGO)
    disk.fill()

    def killed(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((FolderCache, "drop") if step == "store" else (shutil, "rmtree")), killed)
        with pytest.raises(KeyboardInterrupt):
            disk.use(two)
    assert disk.has(one) == (FOLDER if step == "store" else NEITHER)
    disk.folders = disk.started()
    folder = disk.folders.cached(one)
    if folder is not None:
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_model.safetensors", "card"]
        os.utime(folder, (LONG_AGO, LONG_AGO))
    disk.fill()
    disk.use(two)
    assert [disk.has(each) for each in (one, two)] == [NEITHER, WHOLE]
    left = {".lock", cid_of(two.cid_digest)}
    assert {path.name for path in (disk.root / "adapters").iterdir()} == left


def test_copies_that_never_became_a_folder_are_deleted(disk: Disk) -> None:
    interrupted, recent, two = (adapter(number, disk.theirs) for number in range(3))
    for each in (interrupted, recent):
        cid = cid_of(each.cid_digest)
        disk.ours.add_copy(cid, disk.theirs.car(cid))
    os.utime(disk.ours._pins / cid_of(interrupted.cid_digest), (LONG_AGO, LONG_AGO))
    disk.fill()
    disk.use(two)
    assert [disk.has(each) for each in (interrupted, recent)] == [NEITHER, STORED]


@pytest.mark.parametrize("error", [ContentMissing, ContentUnsafe, OSError])
def test_a_copy_without_a_folder_that_cannot_be_read_is_deleted(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    damaged, two = (cid_of(adapter(number, disk.theirs).cid_digest) for number in range(2))
    disk.ours.add_copy(damaged, disk.theirs.car(damaged))
    os.utime(disk.ours._pins / damaged, (LONG_AGO, LONG_AGO))
    disk.fill()
    names = disk.ours.names

    def names_of_others(cid: Cid) -> dict[str, int]:
        if cid == damaged:
            raise error("cannot be read")
        return names(cid)

    monkeypatch.setattr(disk.ours, "names", names_of_others)
    disk.folders.folder(adapter(1, disk.theirs))
    assert [disk.ours.has(cid) for cid in (damaged, two)] == [False, True]


def test_exports_for_vllm_servers_make_room_and_folders_of_other_programs_stay(disk: Disk) -> None:
    old, used, foreign = (disk.exports / name for name in ("a" * 64, "b" * 64, "notes"))
    for folder in (old, used, foreign):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(WEIGHTS))
    for folder in (old, used):
        (folder / "adapter_config.json").write_text(json.dumps({"exported_from": [folder.name]}))
    for folder in (old, foreign):
        os.utime(folder, (LONG_AGO, LONG_AGO))
    disk.fill()
    disk.use(adapter(1, disk.theirs))
    assert [folder.is_dir() for folder in (old, used, foreign)] == [False, True, True]


@pytest.mark.parametrize("content", [None, b"corrupt"], ids=["missing", "corrupt"])
def test_a_copy_that_is_damaged_is_fetched_again_by_the_next_request(
    disk: Disk, content: bytes | None
) -> None:
    record = adapter(1, disk.theirs)
    shutil.rmtree(disk.use(record))
    for block in (disk.root / "a" / "blocks").glob("??/*.data"):
        if block.read_bytes() == b"card":
            block.unlink() if content is None else block.write_bytes(content)
    with pytest.raises(AdapterMissing if content is None else ContentCorrupt):
        disk.use(record)
    assert (disk.use(record) / "card").read_bytes() == b"card"
    assert disk.fetched == 2


def test_what_is_deleted_finds_room_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_folders, "SHARES", SHARES)
    most = ROOM // SHARES
    small, large, gone, new = (adapter_of(most + more, disk.theirs) for more in (0, 1, 2, -1))
    own, huge = (adapter_of(num_bytes, disk.ours) for num_bytes in (ROOM, ROOM + 1))
    for used_at, record in enumerate((huge, gone, large, own, small), start=LONG_AGO):
        disk.use(record, used_at)
    disk.ours.unpin(cid_of(gone.cid_digest))
    disk.fill(free=0)
    disk.use(new)
    had = (large, own, small, gone, huge)
    assert [disk.has(each) for each in had] == [STORED, STORED, NEITHER, FOLDER, WHOLE]
    for record in (large, own, small):  # each when all others make room
        disk.fill(ROOM)
        folder = disk.use(record, LONG_AGO)
        assert disk.has(record) == WHOLE
        shutil.rmtree(folder)
    os.utime(disk.ours._pins / cid_of(large.cid_digest), (LONG_AGO, LONG_AGO))
    disk.fill()
    with pytest.raises(DiskFull):
        disk.use(own)
    assert disk.has(large) == STORED


def test_an_adapter_beyond_the_largest_is_unsafe_also_on_a_full_disk(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_folders, "MAX_ADAPTER_BYTES", 1000)
    unsafe = adapter_of(1001, disk.ours)
    disk.fill(free=100)
    with pytest.raises(ContentUnsafe, match="1001 bytes, more than 1000"):
        disk.use(unsafe)


def test_what_the_store_has_of_an_adapter_to_copy_stays(disk: Disk, tmp_path: Path) -> None:
    one = adapter(1, disk.theirs)
    disk.use(one, LONG_AGO)
    disk.fill()
    disk.folders.fetch(one, tmp_path / "pulled")
    shutil.rmtree(disk.root / "adapters" / cid_of(one.cid_digest))
    os.utime(disk.ours._pins / cid_of(one.cid_digest), (LONG_AGO, LONG_AGO))
    disk.fill()
    disk.folders.fetch(one, tmp_path / "again")
    assert disk.fetched == 1


def test_folders_that_are_no_adapters_stay_and_prevent_nothing(disk: Disk) -> None:
    other = disk.root / "adapters" / "lost+found"
    other.mkdir(parents=True)
    os.utime(other, (0, 0))
    one, two = (adapter(number, disk.theirs) for number in range(2))
    disk.use(one, LONG_AGO)
    disk.fill()
    disk.use(two)
    assert ([disk.has(each) for each in (one, two)], other.is_dir()) == ([NEITHER, WHOLE], True)
