from __future__ import annotations

from pathlib import Path

import pytest

from backend.disk.files import create_private, replacing, sync_tree, write_durably


def power_cut(_: int) -> None:
    raise OSError("power cut")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_durably(path, "first, and longer")
    write_durably(path, "sécond")
    assert path.read_text(encoding="utf-8") == "sécond"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_durably(path, "old")
    monkeypatch.setattr("os.fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_durably(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_and_not_its_draft(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.mkdir()
    for unwritable in (path, path / "missing" / "state.json"):
        with pytest.raises(OSError, match="irectory") as caught:
            write_durably(unwritable, "new")
        assert caught.value.filename == str(unwritable)


def test_two_that_write_at_once_each_write_a_file_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert not path.exists()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_written_to_its_end_replaces_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), replacing(tmp_path / "rows") as draft, draft.open("w"):
        draft.touch(exist_ok=False)
    assert list(tmp_path.iterdir()) == []


def test_private_files_are_read_by_their_owner_only(tmp_path: Path) -> None:
    write_durably(tmp_path / "shared", "text")
    write_durably(tmp_path / "session", "text", is_private=True)
    create_private(tmp_path / "key", "text")
    assert (tmp_path / "shared").stat().st_mode & 0o400
    for name in ("session", "key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_folder_is_synchronised_with_all_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_text("content")
    synced: list[Path] = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink()))
    sync_tree(tmp_path)
    assert set(synced) == {tmp_path, tmp_path / "below", tmp_path / "below" / "file"}


def test_a_file_that_exists_is_not_created_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_private(path, "first")
    with pytest.raises(FileExistsError):
        create_private(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
