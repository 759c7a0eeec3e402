"""`loraledger snapshot`: freeze a datanet's contributions for training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import Actor, acting
from backend.cli.output import echo

if TYPE_CHECKING:
    from backend.client.api import ApiClient

CREATOR = 6

commands = typer.Typer(help="Freeze the contributions of a datanet.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="snapshot")


@commands.command()
@acting(CREATOR)
def create(
    datanet: Annotated[int, typer.Argument(help="Id of a datanet that the wallet created.", min=1)],
    *,
    count: Annotated[
        int | None, typer.Option(help="Number of contributions, from the first on. Default: all.", min=1)
    ] = None,
    actor: Actor,
) -> None:
    """Freeze the accepted contributions of a datanet; prints the snapshot's id once it can be trained on."""
    with actor.connect() as client:
        echo(freeze(client, datanet, count))


def freeze(client: ApiClient, datanet: int, count: int | None = None) -> str:
    """Freeze the first `count` contributions, or all; returns the snapshot's id once it can be trained on."""
    freezing = client.post(f"/v1/datanets/{datanet}/snapshots", {} if count is None else {"count": count})
    client.wait_confirmed(freezing)
    return str(freezing["snapshot_id"])
