"""`loraledger database`: the revision of this installation's tables."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.operator.session import open_installation

commands = typer.Typer(help="Show and change the revision of the database's tables.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="database")


@commands.command()
def show() -> None:
    """Print the revision of the database, and the newest that this version has."""
    with open_installation() as installation:
        current, newest = installation.database_revisions()
    typer.echo(f"revision {current or 'none'}, newest {newest}")


@commands.command()
def migrate(
    to: Annotated[str, typer.Option(help="Revision; an earlier one discards what later ones added.")] = "",
) -> None:
    """Migrate the tables, by default to the newest revision. First stop the installation's processes."""
    with open_installation() as installation:
        _, newest = installation.database_revisions()
        installation.migrate_database(to or newest)
        current, _ = installation.database_revisions()
    typer.echo(f"revision {current}")
