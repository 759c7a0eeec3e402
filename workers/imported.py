"""Copies the files of imported adapters from transfers into job folders."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from backend.disk.files import folder_draft
from backend.domain.errors import NotFound
from workers.training.spec import UPLOADED

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account
    from backend.domain.training import ImportedAdapter
    from backend.services.contribute.transfers import Transfers


class FilesMissing(NotFound):
    """A transfer was deleted, or expired after a day without use, before its file was read."""


def fetch_files(transfers: Transfers, creator: Account, adapter: ImportedAdapter, folder: Path) -> None:
    """Write the files to `folder / UPLOADED`, atomically. Idempotent.

    Errors: `FilesMissing`, `DigestMismatch`, `DiskFull`.
    """
    if (folder / UPLOADED).is_dir():
        return
    with folder_draft(folder / UPLOADED) as draft:  # a worker that lost its lease may still be writing
        for name, transfer_id in adapter.transfers.items():
            _copy(transfers, creator, transfer_id, draft / name)


def _copy(transfers: Transfers, creator: Account, transfer_id: str, path: Path) -> None:
    try:
        content = transfers.content(creator, transfer_id)
    except NotFound as error:
        raise FilesMissing(f"{path.name} is not stored any more: upload it again", param=path.name) from error
    with path.open("xb") as file:
        for chunk in transfers.space.limit(content):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def delete_files(transfers: Transfers, creator: Account, adapter: ImportedAdapter) -> None:
    """Delete the transfers, which would otherwise expire a day later."""
    for transfer_id in adapter.transfers.values():
        with suppress(NotFound):
            transfers.remove(creator, transfer_id)
