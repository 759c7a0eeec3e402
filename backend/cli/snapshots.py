"""`loraledger snapshot`: freeze a datanet's contributions for training."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import CREATOR, Actor, acting
from backend.cli.output import echo
from backend.client.errors import ApiError, reading_answer
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from backend.client.api import ApiClient

MOST_ATTEMPTS = 5

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
    """Freeze the first `count` contributions, or all; returns the snapshot's id once it can be trained on.

    Errors: `Conflict` if the transaction fails, or curators' decisions keep changing what is accepted.
    """
    from backend.client.api import QUEUED

    for _ in range(MOST_ATTEMPTS):
        freezing = client.post(f"/v1/datanets/{datanet}/snapshots", {} if count is None else {"count": count})
        client.wait_confirmed(freezing)
        with reading_answer(QUEUED):
            snapshot = str(freezing["snapshot_id"])
        if _exists(client, snapshot):
            return snapshot
    raise Conflict(
        f"what datanet {datanet} accepts changed during each of {MOST_ATTEMPTS} attempts: try again"
    )


def _exists(client: ApiClient, snapshot: str) -> bool:
    """Whether it was frozen. A decision that was mined first changes the snapshot, and so its id."""
    try:
        client.get(f"/v1/snapshots/{snapshot}")
    except ApiError as error:
        if error.details["status"] != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True
