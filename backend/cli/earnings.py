"""`loraledger earnings` and `loraledger claim`: show an account's earnings and have them paid out."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.session import AsJson, User, open_client, print_json

CONTRIBUTOR = 3

Of = Annotated[str, typer.Option("--account", help="Account that earned. Default: the wallet's own.")]


def register(app: typer.Typer) -> None:
    app.command()(earnings)
    app.command()(claim)


def earnings(*, account: Of = "", user: User = CONTRIBUTOR, as_json: AsJson = False) -> None:
    """Show what an account earned in final batches, by operator."""
    with open_client(user) as client:
        found = client.list_all("/v1/earnings", **({"account": account} if account else {}))
    if as_json:
        print_json(found)
        return
    for earning in found:
        reason = f" ({earning['unverifiable']})" if earning["unverifiable"] else ""
        typer.echo(
            f"operator {earning['operator']}: {int(earning['units']):,} units to claim, "
            f"{int(earning['cumulative']):,} micro-units earned, {int(earning['claimed']):,} claimed{reason}"
        )


def claim(
    *,
    account: Of = "",
    is_own: Annotated[
        bool,
        typer.Option(
            "--own-gas", help="Send from the wallet, for amounts too small for the operator to relay."
        ),
    ] = False,
    user: User = CONTRIBUTOR,
) -> None:
    """Claim all earnings of an account; they are paid to its payout wallet."""
    params = {"account": account} if account else {}
    with open_client(user) as client:
        due = [each for each in client.list_all("/v1/earnings", **params) if int(each["units"])]
        for earning in due:
            body = {"operator": earning["operator"], **params}
            if is_own:
                client.wallet.send(client.post("/v1/claims/prepare", body))
            else:
                client.wait_confirmed(client.post("/v1/claims/relay", body))
            typer.echo(f"{int(earning['units']):,} units claimed from {earning['operator']}")
    if not due:
        typer.echo("nothing to claim")
