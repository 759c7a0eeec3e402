"""`loraledger datanet`: create and list datanets."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.actor import CREATOR, Actor, acting
from backend.cli.output import AsJson, echo, note_if_empty, print_json
from backend.domain.texts import counted

commands = typer.Typer(help="Create and list datanets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="datanet")


@commands.command()
@acting(CREATOR)
def create(
    name: Annotated[str, typer.Argument(help="Name: 1 to 32 of a-z, 0-9 and -.")],
    *,
    description: Annotated[str, typer.Option(help="Description in Markdown, published.")] = "",
    licence: Annotated[
        str, typer.Option(help="SPDX expression of the licences that it accepts. Default: any.")
    ] = "",
    actor: Actor,
) -> None:
    """Create a datanet; prints its id. The wallet sends the transaction."""
    from backend.client.registries import create_datanet

    with actor.connect() as client:
        echo(str(create_datanet(client, name, description, licence)))


@commands.command("list")
@acting(CREATOR)
def list_datanets(*, actor: Actor, as_json: AsJson = False) -> None:
    """List all datanets, oldest first."""
    with actor.browse() as client:
        found = client.list_all("/v1/datanets")
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no datanets yet; `loraledger datanet create` creates one")
    for datanet in found:
        number = counted(datanet["num_contributions"], "contribution")
        echo(f"{datanet['id']}  {datanet['name']} by {datanet['creator']}: {number}")
