"""Files that are written whole or not at all, and stay after a power failure."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def write_durably(path: Path, text: str, *, is_private: bool = False) -> None:
    """Create or replace a file of an existing folder atomically; it is on the disk when this returns.

    `is_private`: only its owner can read it.
    """
    with _draft(path, text, is_private=is_private) as draft:
        draft.replace(path)
    sync_folder(path.parent)


def create_private(path: Path, text: str) -> None:
    """Create a file as `write_durably` with `is_private` does. Errors: `FileExistsError`."""
    with _draft(path, text, is_private=True) as draft:
        path.hardlink_to(draft)  # fails if the path exists, where a rename would overwrite it
    sync_folder(path.parent)


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The text of a file. A missing one is created with what `make` returns, as by `create_private`."""
    if not path.exists():
        with suppress(FileExistsError):  # another process was faster
            create_private(path, make())
    return path.read_text()


def sync_folder(folder: Path) -> None:
    """Make the names of the folder's files durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _draft(path: Path, text: str, *, is_private: bool) -> Iterator[Path]:
    """A file beside `path` with its content. Its name is unique, because two processes may write at once."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if is_private else 0o666)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)
