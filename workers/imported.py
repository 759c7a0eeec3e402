"""The files of an adapter that was trained elsewhere, on their way from transfers into a job's folder."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from backend.domain.errors import NotFound
from workers.training.spec import BROUGHT

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.domain.training import ImportedAdapter
    from backend.services.contribute.transfers import Transfers


class FilesGone(NotFound):
    """A transfer was deleted, or went unused for a day, before its file was read: upload it again."""


def bring_files(transfers: Transfers, creator: Account, foreign: ImportedAdapter, folder: Path) -> None:
    """Into `folder / BROUGHT`, all or nothing; again is harmless. Errors: `FilesGone`, `DigestMismatch`."""
    if (folder / BROUGHT).is_dir():
        return
    # A name of its own: a worker that lost its lease may still be writing.
    scratch = Path(tempfile.mkdtemp(prefix=f"{BROUGHT}.", dir=folder))
    for name, transfer_id in foreign.transfers.items():
        try:
            content = transfers.content(creator, transfer_id)
        except NotFound as error:
            raise FilesGone(f"{name} is gone from here: upload it again", param=name) from error
        with (scratch / name).open("xb") as file:
            for chunk in content:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    scratch.rename(folder / BROUGHT)


def drop_files(transfers: Transfers, creator: Account, foreign: ImportedAdapter) -> None:
    """They would go by themselves, a day later."""
    for transfer_id in foreign.transfers.values():
        with suppress(NotFound):
            transfers.remove(creator, transfer_id)
