"""`loraledger endpoint`: where this operator is found."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.session import open_installation


def register(app: typer.Typer) -> None:
    app.command()(endpoint)


def endpoint(
    url: Annotated[str, typer.Argument(help="Base URL of the API, as others reach it; '' for none.")],
) -> None:
    """Have the sender register where this operator serves: others fetch adapters and batch data there."""
    with open_installation() as installation:
        number = installation.operators.announce(url)
    typer.echo(f"transaction {number} is queued; `loraledger send` sends it")
