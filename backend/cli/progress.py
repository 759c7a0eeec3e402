"""Progress of uploads on the terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.client.api import ApiClient


@contextmanager
def transferring(path: Path) -> Iterator[Callable[[int, int], None]]:
    """Yield `show(done, total)`, which moves a progress bar; there is none before its first call."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(path.name)

    def show(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield show
    except (KeyboardInterrupt, Unavailable):
        typer.echo("interrupted; run the same command within a day to resume", err=True)
        raise
    finally:
        if progress.live.is_started:
            progress.stop()


def transfer_with_progress(client: ApiClient, path: Path) -> str:
    """Transfer a file; returns the transfer's id."""
    from backend.client.transfers import transfer

    with transferring(path) as show:
        return transfer(client, path, show)
