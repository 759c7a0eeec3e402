"""`loraledger vote`: governance proposals, prepared by the API, signed and sent by the voter's wallet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from backend.cli.actor import VOTER, Actor, acting
from backend.cli.output import AsJson, echo, in_utc, note_if_empty, print_json

if TYPE_CHECKING:
    from backend.client.node import Mined

UINT256_DIGITS = 78
Id = Annotated[str, typer.Argument(help="Id of the proposal.")]

commands = typer.Typer(help="Propose and vote on changes of the market's rules.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="vote")


@commands.command("list")
@acting(VOTER)
def list_proposals(*, actor: Actor, as_json: AsJson = False) -> None:
    """List all proposals, oldest first."""
    from backend.client import governance

    with actor.browse() as client:
        proposals = client.list_all(governance.PROPOSALS)
    if as_json:
        print_json(proposals)
        return
    note_if_empty(proposals, "no proposals yet")
    for proposal in proposals:
        is_open = proposal["state"] in {"pending", "active"}
        until = f"; votes count until {in_utc(proposal['vote_ends_at'])}" if is_open else ""
        echo(f"{proposal['id']}  {proposal['state']:10} {proposal['description']}{until}")


@commands.command("show")
@acting(VOTER)
def show_proposal(proposal: Id, *, actor: Actor) -> None:
    """Print a proposal with its decoded calls, as JSON."""
    from backend.client import governance

    with actor.browse() as client:
        print_json(client.get(f"{governance.PROPOSALS}/{proposal}"))


@commands.command()
@acting(VOTER)
def delegate(*, actor: Actor) -> None:
    """Delegate the wallet's votes to itself, so that its tokens count in later proposals."""
    from backend.client import governance

    with actor.connect() as client:
        _say(governance.delegate(client))


@commands.command()
@acting(VOTER)
def propose(
    changes: Annotated[
        list[str], typer.Argument(help="New values, as `feePpm=50000`; other parameters keep theirs.")
    ],
    *,
    description: Annotated[
        str, typer.Option(help="Description; must differ from that of your other proposals of these changes.")
    ] = "",
    actor: Actor,
) -> None:
    """Propose a change of the market's parameters; prints the proposal's id."""
    from backend.client import governance

    parsed = dict(map(_parse_change, changes))
    with actor.connect() as client:
        echo(governance.propose(client, parsed, description))


@commands.command()
@acting(VOTER)
def cast(
    proposal: Id,
    ballot: Annotated[Literal["for", "against", "abstain"], typer.Argument(help="The vote.")],
    *,
    reason: Annotated[str, typer.Option(help="Reason, recorded with the vote.")] = "",
    actor: Actor,
) -> None:
    """Vote on an active proposal."""
    from backend.client import governance

    with actor.connect() as client:
        _say(governance.cast(client, proposal, ballot, reason))


@commands.command()
@acting(VOTER)
def queue(proposal: Id, *, actor: Actor) -> None:
    """Queue a proposal that succeeded in the timelock."""
    from backend.client import governance

    with actor.connect() as client:
        _say(governance.queue(client, proposal))


@commands.command()
@acting(VOTER)
def execute(proposal: Id, *, actor: Actor) -> None:
    """Execute a queued proposal after its timelock delay."""
    from backend.client import governance

    with actor.connect() as client:
        _say(governance.execute(client, proposal))


def _parse_change(change: str) -> tuple[str, int | str]:
    name, separator, value = change.partition("=")
    if not separator:
        raise typer.BadParameter(f"{change} is not a change as `feePpm=50000`")
    return name, int(value) if value.isdecimal() and len(value) <= UINT256_DIGITS else value


def _say(mined: Mined) -> None:
    echo(f"mined in block {mined.block_number}")
