"""Folders that are there as a whole or not at all, and stay while they are in use."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from backend.disk.folder_cache import DRAFT_SECONDS, FolderCache, keep_in_use

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path) -> FolderCache:
    """With the folders `a` to `c`, last used at 1 to 3."""
    for used_at, name in enumerate("abc", start=1):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * used_at)
        os.utime(tmp_path / name, (used_at, used_at))
    return FolderCache(tmp_path)


def names(cache: FolderCache, before: float) -> list[str]:
    return [each.path.name for each in cache.least_recent(before)]


def test_a_use_is_noted_and_the_least_recently_used_come_first(cache: FolderCache) -> None:
    assert names(cache, 4) == ["a", "b", "c"]
    assert names(cache, 3) == ["a", "b"]
    assert [each.num_bytes for each in cache.least_recent(4)] == [1, 2, 3]
    assert cache.use("a") == cache.root / "a"
    keep_in_use(cache.root / "b")
    keep_in_use(cache.root / "absent")
    assert names(cache, 4) == ["c"]
    assert cache.use("absent") is None
    assert FolderCache(cache.root / "absent").use("a") is None
    assert FolderCache(cache.root / "absent").least_recent(4) == []


def test_a_folder_that_was_used_after_it_was_chosen_stays(cache: FolderCache) -> None:
    cache.use("a")
    cache.drop("a", unused_since=4)
    cache.drop("b", unused_since=4)
    cache.drop("c")
    cache.drop("c")
    assert (cache.root / "a" / "file").exists()
    assert sorted(path.name for path in cache.root.iterdir()) == [".lock", "a"]


def test_a_folder_is_deleted_from_a_disk_that_has_no_room_for_another(
    cache: FolderCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "mkdir", disk_full)
    cache.drop("a")
    assert sorted(path.name for path in cache.root.iterdir()) == [".lock", "b", "c"]


def test_a_file_of_a_folder_is_read_if_it_can_be(cache: FolderCache) -> None:
    folder = cache.least_recent(2)[0]
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
