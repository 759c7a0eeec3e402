"""Governance from the command line: the API prepares, a local test wallet signs and sends."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.session import AsJson, User, open_market, show

PROPOSALS = "/v1/governance/proposals"
VOTER = 8
Id = Annotated[str, typer.Argument(help="Id of the proposal.")]

commands = typer.Typer(help="Change the market's rules by contract calls.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="vote")


@commands.command("list")
def list_proposals(*, user: User = VOTER, as_json: AsJson = False) -> None:
    """All proposals, oldest first."""
    with open_market(user) as market:
        proposals = market.all(PROPOSALS)
    if as_json:
        show(proposals)
        return
    for proposal in proposals:
        typer.echo(f"{proposal['id']}  {proposal['state']:10} {proposal['description']}")


@commands.command("show")
def show_proposal(proposal: Id, *, user: User = VOTER) -> None:
    """One proposal, its calls decoded, as JSON."""
    with open_market(user) as market:
        show(market.get(f"{PROPOSALS}/{proposal}"))


@commands.command()
def delegate(*, user: User = VOTER) -> None:
    """Let the wallet's own tokens count in proposals made from now on."""
    _send(user, "/v1/governance/delegate/prepare", {})


@commands.command()
def propose(
    fee_ppm: Annotated[int, typer.Argument(help="The new protocol fee in ppm.", min=0, max=1_000_000)],
    *,
    description: Annotated[str, typer.Option(help="What it is for; another text for each proposal.")] = "",
    user: User = VOTER,
) -> None:
    """Propose another protocol fee; prints the proposal's id."""
    with open_market(user) as market:
        prepared = market.post(f"{PROPOSALS}/prepare", fee_proposal(fee_ppm, description))
        market.wallet.send(prepared["transaction"])
    typer.echo(prepared["proposal_id"])


@commands.command()
def cast(
    proposal: Id,
    ballot: Annotated[str, typer.Argument(help="for, against or abstain.")],
    *,
    reason: Annotated[str, typer.Option(help="Recorded with the vote.")] = "",
    user: User = VOTER,
) -> None:
    """Vote on a proposal that is active."""
    _send(user, f"{PROPOSALS}/{proposal}/vote/prepare", {"ballot": ballot, "reason": reason})


@commands.command()
def queue(proposal: Id, *, user: User = VOTER) -> None:
    """Start the timelock of a proposal that succeeded."""
    _send(user, f"{PROPOSALS}/{proposal}/queue/prepare")


@commands.command()
def execute(proposal: Id, *, user: User = VOTER) -> None:
    """Make the calls of a queued proposal once its timelock has passed."""
    _send(user, f"{PROPOSALS}/{proposal}/execute/prepare")


def fee_proposal(fee_ppm: int, description: str = "") -> dict[str, Any]:
    """The body that prepares a proposal of another protocol fee."""
    return {
        "calls": [{"contract": "Parameters", "function": "setFee", "args": [str(fee_ppm)]}],
        "description": description or f"Set the protocol fee to {fee_ppm} ppm",
    }


def _send(user: int, path: str, body: dict[str, Any] | None = None) -> None:
    with open_market(user) as market:
        sent = market.wallet.send(market.post(path, body))
    typer.echo(f"mined in block {sent['blockNumber']}")
