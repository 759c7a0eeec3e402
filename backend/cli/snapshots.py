"""`loraledger snapshot`: what adapters are trained on, frozen by a datanet's creator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.session import User, open_market

if TYPE_CHECKING:
    from backend.cli.client import Market

CREATOR = 6
CHAIN_SECONDS = 120

commands = typer.Typer(help="Freeze datanets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="snapshot")


@commands.command()
def create(
    datanet: Annotated[int, typer.Argument(help="Its id; the wallet must have created it.", min=1)],
    *,
    count: Annotated[
        int | None, typer.Option(help="Of its contributions, the first so many; left out: all.", min=1)
    ] = None,
    user: User = CREATOR,
) -> None:
    """Freeze what is accepted in a datanet now; prints the snapshot's id once it can be trained on."""
    with open_market(user) as market:
        typer.echo(freeze(market, datanet, count))


def freeze(market: Market, datanet: int, count: int | None = None) -> str:
    """The id of a snapshot of the first `count` contributions, or of all, once it is on the chain."""
    freezing = market.post(f"/v1/datanets/{datanet}/snapshots", {} if count is None else {"count": count})
    market.wait_for(freezing)
    market.find(f"/v1/snapshots/{freezing['snapshot_id']}", CHAIN_SECONDS)
    return str(freezing["snapshot_id"])
