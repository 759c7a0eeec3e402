"""Writes files and folders whole or not at all, durably where asked, and reads files in pieces."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def write_durably(path: Path, text: str, *, is_private: bool = False) -> None:
    """Create or replace a file of an existing folder atomically; it is on the disk when this returns.

    `is_private`: only its owner can read it. Errors: `OSError`, which names `path`.
    """
    try:
        with file_draft(_beside(path), text.encode(), is_private=is_private) as draft:
            draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # not the draft, of which no user knows
        raise


def create_private(path: Path, text: str) -> None:
    """Create a file as `write_durably` with `is_private` does. Errors: `FileExistsError`."""
    with file_draft(_beside(path), text.encode(), is_private=True) as draft:
        path.hardlink_to(draft)  # fails if the path exists, where a rename would overwrite it
    sync_folder(path.parent)


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The text of a file. A missing one is created with what `make` returns, as by `create_private`."""
    if not path.exists():
        with suppress(FileExistsError):  # another process was faster
            create_private(path, make())
    return path.read_text()


def pieces(path: Path, num_bytes: int = 1 << 16) -> Iterator[bytes]:
    """The content of a file, in pieces of so many bytes but for the last."""
    with path.open("rb") as file:
        while piece := file.read(num_bytes):
            yield piece


def sync_folder(folder: Path) -> None:
    """Make the names of the folder's files durable."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Make all below the folder durable: names and contents."""
    for path in (folder, *folder.rglob("*")):
        _sync(path)


@contextmanager
def file_draft(draft: Path, content: bytes, *, is_private: bool, is_durable: bool = True) -> Iterator[Path]:
    """A file for the block to rename or link, which is deleted if it is still there at the end. `is_durable`:
    its content is on the disk when the block begins.
    """
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if is_private else 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file for the block to write, which becomes `path` when the block ends, and is deleted if it raises.
    Its name is unique, because two processes may write at once. It is not made durable.
    """
    draft = _beside(path)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def folder_draft(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` when the block ends, also over an empty folder, and is deleted if it
    raises. Its name is unique, because two processes may write at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _beside(path: Path) -> Path:
    """A unique name, because two processes may write at once."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
