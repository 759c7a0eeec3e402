"""What an account earned, and its way to the wallet."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.session import AsJson, User, open_market, show

CONTRIBUTOR = 3

Of = Annotated[str, typer.Option("--account", help="Whose; left out: the wallet's own.")]


def register(app: typer.Typer) -> None:
    app.command()(earnings)
    app.command()(claim)


def earnings(*, account: Of = "", user: User = CONTRIBUTOR, as_json: AsJson = False) -> None:
    """What final batches hold for an account, by operator."""
    with open_market(user) as market:
        found = market.all("/v1/earnings", **({"account": account} if account else {}))
    if as_json:
        show(found)
        return
    for each in found:
        doubt = f" ({each['unverifiable']})" if each["unverifiable"] else ""
        typer.echo(
            f"operator {each['operator']}: {int(each['units']):,} units to claim, "
            f"{int(each['cumulative']):,} micro-units earned, {int(each['claimed']):,} claimed{doubt}"
        )


def claim(
    *,
    account: Of = "",
    is_own: Annotated[
        bool,
        typer.Option("--own-gas", help="Send from the wallet, for amounts that the operator does not."),
    ] = False,
    user: User = CONTRIBUTOR,
) -> None:
    """Have all earnings of an account paid to its payout wallet."""
    of = {"account": account} if account else {}
    with open_market(user) as market:
        due = [each for each in market.all("/v1/earnings", **of) if int(each["units"])]
        for each in due:
            body = {"operator": each["operator"], **of}
            if is_own:
                market.wallet.send(market.post("/v1/claims/prepare", body))
            else:
                market.wait_for(market.post("/v1/claims/relay", body))
            typer.echo(f"{int(each['units']):,} units claimed from {each['operator']}")
    if not due:
        typer.echo("nothing to claim")
