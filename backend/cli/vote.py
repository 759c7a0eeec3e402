"""`loraledger vote`: governance proposals, prepared by the API, signed and sent by a test wallet."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.session import AsJson, User, open_client, print_json

PROPOSALS = "/v1/governance/proposals"
CHANGE = "/v1/governance/parameters/prepare"
VOTER = 8
Id = Annotated[str, typer.Argument(help="Id of the proposal.")]

commands = typer.Typer(help="Propose and vote on changes of the market's rules.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="vote")


@commands.command("list")
def list_proposals(*, user: User = VOTER, as_json: AsJson = False) -> None:
    """List all proposals, oldest first."""
    with open_client(user) as client:
        proposals = client.list_all(PROPOSALS)
    if as_json:
        print_json(proposals)
        return
    for proposal in proposals:
        typer.echo(f"{proposal['id']}  {proposal['state']:10} {proposal['description']}")


@commands.command("show")
def show_proposal(proposal: Id, *, user: User = VOTER) -> None:
    """Print a proposal with its decoded calls, as JSON."""
    with open_client(user) as client:
        print_json(client.get(f"{PROPOSALS}/{proposal}"))


@commands.command()
def delegate(*, user: User = VOTER) -> None:
    """Delegate the wallet's votes to itself, so that its tokens count in later proposals."""
    _send(user, "/v1/governance/delegate/prepare", {})


@commands.command()
def propose(
    changes: Annotated[
        list[str], typer.Argument(help="New values, as `feePpm=50000`; other parameters keep theirs.")
    ],
    *,
    description: Annotated[
        str, typer.Option(help="Description; must differ from that of every other proposal of these changes.")
    ] = "",
    user: User = VOTER,
) -> None:
    """Propose a change of the market's parameters; prints the proposal's id."""
    body = {"changes": dict(map(_parse_change, changes)), "description": description}
    with open_client(user) as client:
        prepared = client.post(CHANGE, body)
        client.wallet.send(prepared["transaction"])
    typer.echo(prepared["proposal_id"])


@commands.command()
def cast(
    proposal: Id,
    ballot: Annotated[str, typer.Argument(help="`for`, `against` or `abstain`.")],
    *,
    reason: Annotated[str, typer.Option(help="Reason, recorded with the vote.")] = "",
    user: User = VOTER,
) -> None:
    """Vote on an active proposal."""
    _send(user, f"{PROPOSALS}/{proposal}/vote/prepare", {"ballot": ballot, "reason": reason})


@commands.command()
def queue(proposal: Id, *, user: User = VOTER) -> None:
    """Queue a proposal that succeeded in the timelock."""
    _send(user, f"{PROPOSALS}/{proposal}/queue/prepare")


@commands.command()
def execute(proposal: Id, *, user: User = VOTER) -> None:
    """Execute a queued proposal after its timelock delay."""
    _send(user, f"{PROPOSALS}/{proposal}/execute/prepare")


def _parse_change(change: str) -> tuple[str, int | str]:
    name, separator, value = change.partition("=")
    if not separator:
        raise typer.BadParameter(f"{change} is not a change as `feePpm=50000`")
    return name, int(value) if value.isdecimal() else value


def _send(user: int, path: str, body: dict[str, Any] | None = None) -> None:
    with open_client(user) as client:
        sent = client.wallet.send(client.post(path, body))
    typer.echo(f"mined in block {sent['blockNumber']}")
