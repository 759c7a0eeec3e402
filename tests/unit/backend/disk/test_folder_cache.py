"""Folders that are there as a whole or not at all, and stay while they are in use."""

from __future__ import annotations

import errno
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from backend.disk.folder_cache import DRAFT_SECONDS, RECORD_SECONDS, FolderCache, keep_in_use

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path) -> FolderCache:
    """With the folders `a` to `c`, whose last uses were recorded at 1 to 3."""
    for recorded_at, name in enumerate("abc", start=1):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * recorded_at)
        record(tmp_path / name, recorded_at)
    return FolderCache(tmp_path)


def record(folder: Path, used_at: float) -> None:
    os.utime(folder, (used_at, used_at))


def names(cache: FolderCache, recorded_before: float) -> list[str]:
    return [each.path.name for each in cache.least_recent(recorded_before + RECORD_SECONDS)]


def test_a_use_is_noted_and_the_least_recently_used_come_first(cache: FolderCache) -> None:
    assert names(cache, 4) == ["a", "b", "c"]
    assert names(cache, 3) == ["a", "b"]
    assert [each.num_bytes for each in cache.least_recent(4 + RECORD_SECONDS)] == [1, 2, 3]
    assert cache.use("a") == cache.root / "a"
    keep_in_use(cache.root / "b")
    keep_in_use(cache.root / "absent")
    assert names(cache, 4) == ["c"]
    assert cache.use("absent") is None
    assert FolderCache(cache.root / "absent").use("a") is None
    assert FolderCache(cache.root / "absent").least_recent(4) == []


def test_a_folder_that_was_used_after_it_was_chosen_stays(cache: FolderCache) -> None:
    cache.use("a")
    cache.drop("a", unused_since=4 + RECORD_SECONDS)
    cache.drop("b", unused_since=4 + RECORD_SECONDS)
    cache.drop("c")
    cache.drop("c")
    assert (cache.root / "a" / "file").exists()
    assert sorted(path.name for path in cache.root.iterdir()) == [".lock", "a"]


def test_a_use_soon_after_a_recorded_one_takes_no_lock_and_keeps_the_folder(cache: FolderCache) -> None:
    recorded_at = time.time() - RECORD_SECONDS / 2
    record(cache.root / "a", recorded_at)
    used_at = time.time()
    assert cache.use("a") == cache.root / "a"
    assert (cache.root / "a").stat().st_mtime == pytest.approx(recorded_at)
    assert not (cache.root / ".lock").exists()
    assert "a" not in [each.path.name for each in cache.least_recent(used_at)]
    cache.drop("a", unused_since=used_at)
    assert (cache.root / "a").is_dir()


@pytest.mark.parametrize("seconds_ago", [RECORD_SECONDS + 1, -60.0], ids=["long ago", "of a wrong clock"])
def test_another_use_is_recorded(cache: FolderCache, seconds_ago: float) -> None:
    record(cache.root / "a", time.time() - seconds_ago)
    before = time.time()
    cache.use("a")
    assert before - 1 < (cache.root / "a").stat().st_mtime < before + 30


def test_a_folder_is_deleted_from_a_disk_that_has_no_room_for_another(
    cache: FolderCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "mkdir", disk_full)
    cache.drop("a")
    assert sorted(path.name for path in cache.root.iterdir()) == [".lock", "b", "c"]


def test_a_file_of_a_folder_is_read_if_it_can_be(cache: FolderCache) -> None:
    folder = cache.least_recent(2 + RECORD_SECONDS)[0]
    assert [folder.read(name) for name in ("file", "absent", "")] == [b"x", b"", b""]


def test_an_interrupted_deletion_leaves_no_part_to_use_and_is_swept(
    cache: FolderCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.drop("a")
    assert cache.use("a") is None
    assert names(cache, 4) == ["b", "c"]
    draft, other = cache.root / ".draft-x", cache.root / ".other"
    draft.mkdir()
    other.mkdir()
    cache.sweep(".draft-*")
    assert sorted(path.name for path in cache.root.iterdir()) == [".draft-x", ".lock", ".other", "b", "c"]
    for path in (draft, other):
        os.utime(path, (path.stat().st_mtime - DRAFT_SECONDS - 1,) * 2)
    cache.sweep(".draft-*")
    assert (draft.exists(), other.exists()) == (False, True)
