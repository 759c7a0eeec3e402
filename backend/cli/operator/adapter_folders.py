"""`loraledger adapter pull`: fetch the folder of an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.adapters import Registered
from backend.cli.operator.session import open_installation


def register(adapter: typer.Typer) -> None:
    adapter.command()(pull)


def pull(
    adapter: Registered,
    folder: Annotated[Path, typer.Argument(help="Folder to create; it must not exist yet.")],
) -> None:
    """Fetch an adapter's folder from the local store or another operator's gateway, and verify its CID.

    Requires the chain to be indexed in this home: run `loraledger index`.
    """
    from backend.services.market.catalogue import adapter_record

    with open_installation() as installation:
        installation.check_database()
        record = adapter_record(installation.database, adapter)
        cid = installation.adapter_folders.fetch(record, folder)
    typer.echo(f"{cid} is in {folder}")
