"""`loraledger earnings` and `loraledger claim`: show an account's earnings and have them paid out."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.actor import Actor, acting
from backend.cli.amounts import dollars
from backend.cli.session import AsJson, print_json
from backend.domain.money import AMOUNT

CONTRIBUTOR = 3

Of = Annotated[str, typer.Option("--of", help="Account that earned. Default: the wallet's own.")]


def register(app: typer.Typer) -> None:
    app.command()(earnings)
    app.command()(claim)


@acting(CONTRIBUTOR)
def earnings(*, of: Of = "", actor: Actor, as_json: AsJson = False) -> None:
    """Show what an account earned in final batches, by operator."""
    with actor.connect() as client:
        found = client.list_all("/v1/earnings", **({"account": of} if of else {}))
    if as_json:
        print_json(found)
        return
    for earning in found:
        reason = f" ({earning['unverifiable']})" if earning["unverifiable"] else ""
        typer.echo(
            f"operator {earning['operator']}: {dollars(earning['claimable'])} to claim, "
            f"{dollars(earning['cumulative'])} earned, {dollars(earning['claimed'])} claimed{reason}"
        )


@acting(CONTRIBUTOR)
def claim(
    *,
    of: Of = "",
    is_own: Annotated[
        bool,
        typer.Option(
            "--own-gas", help="Send from the wallet, for amounts too small for the operator to relay."
        ),
    ] = False,
    actor: Actor,
) -> None:
    """Claim all earnings of an account; they are paid to its payout wallet."""
    from backend.client import earnings as calls
    from backend.domain.caip import account_of

    with actor.connect() as client:
        account = account_of(of, client.wallet.deployment.chain_id) if of else client.wallet.account
        found = client.list_all("/v1/earnings", account=account)
        due = [each for each in found if AMOUNT.read(each["claimable"])]
        for earning in due:
            calls.claim(client, earning, account, is_own_gas=is_own)
            typer.echo(f"{dollars(earning['claimable'])} claimed from {earning['operator']}")
    if not due:
        typer.echo("nothing to claim")
