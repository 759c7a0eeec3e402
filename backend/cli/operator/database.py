"""`loraledger database`: the revision of this installation's tables, and what a restore brings back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from backend.cli.operator.session import open_installation
from backend.domain.texts import counted

commands = typer.Typer(
    help="The database: revision of its tables, and credentials in it.", no_args_is_help=True
)


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


@commands.command("revoke-keys")
def revoke_keys() -> None:
    """Revoke all API keys and end all sessions: a restore makes those valid again that were revoked since the
    backup. Their owners sign in and create new ones.
    """
    with open_installation() as installation:
        installation.check_database()
        with installation.database.begin() as tx:
            num_keys, num_sessions = tx.auth.revoke_all(datetime.now(UTC))
    typer.echo(f"revoked {counted(num_keys, 'API key')} and ended {counted(num_sessions, 'session')}")
