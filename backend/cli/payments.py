"""`loraledger deposit`, `balance`, `move` and `withdraw`: manage a payer's channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import Actor, acting
from backend.cli.session import AsJson, print_json
from backend.client.errors import ApiError
from backend.client.waiting import wait_until
from backend.domain.money import UNIT, UNITS_PER_DOLLAR

if TYPE_CHECKING:
    from backend.client.api import ApiClient

THAW_SECONDS = 30 * 86_400
"""Longer than the thaw period of any vault."""
PAYER = 7


def register(app: typer.Typer) -> None:
    for command in (deposit, balance, move, withdraw):
        app.command()(command)


@acting(PAYER)
def deposit(
    dollars: Annotated[float, typer.Argument(help="Amount to deposit, in test dollars.", min=0.001)],
    *,
    actor: Actor,
) -> None:
    """Deposit test dollars in the wallet's channel, and grant the gateway a session key for one day."""
    from backend.client import payments as calls

    with actor.connect() as client:
        channel_id = calls.deposit(client, round(dollars * UNITS_PER_DOLLAR))
        channel = client.get(f"/v1/channels/{channel_id}")
    typer.echo(f"channel {channel_id}: {int(channel['available']):,} micro-units can be spent")


@acting(PAYER)
def balance(*, actor: Actor, as_json: AsJson = False) -> None:
    """Show the balances of the wallet's channels, in micro-units."""
    with actor.connect() as client:
        channels = client.list_all("/v1/channels")
    if as_json:
        print_json(channels)
        return
    for channel in channels:
        names = ("balance", "available", "thawing", "moving")
        amounts = ", ".join(f"{name} {int(channel[name]):,}" for name in names)
        typer.echo(f"channel {channel['id']}: {amounts} micro-units")


@acting(PAYER)
def move(
    dollars: Annotated[
        float | None,
        typer.Argument(help="Most to move, in test dollars. Default: the whole balance.", min=0.001),
    ] = None,
    *,
    collector: Annotated[str, typer.Option(help="Settlement contract to which the operator has moved.")],
    actor: Actor,
) -> None:
    """Move the balance to the wallet's channel under another collector, without a thaw. What is charged or
    reserved stays.
    """
    from backend.client import payments as calls
    from backend.domain.caip import account_of

    most = None if dollars is None else round(dollars * UNITS_PER_DOLLAR) * UNIT
    with actor.connect() as client:
        account = account_of(collector, client.wallet.deployment.chain_id)
        moved = calls.move(client, account, most)
    typer.echo(f"moved {moved:,} micro-units to the channel under {account}")


@acting(PAYER)
def withdraw(
    dollars: Annotated[
        float | None,
        typer.Argument(
            help="Amount to start thawing, in test dollars. Default: withdraw what has thawed.", min=0
        ),
    ] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has thawed, and withdraw it.")] = False,
    actor: Actor,
) -> None:
    """Withdraw money from the wallet's channel. It thaws first; thawing money cannot be spent."""
    from backend.client import payments as calls

    with actor.connect() as client:
        if dollars is not None:
            calls.thaw(client, round(dollars * UNITS_PER_DOLLAR) * UNIT)
            typer.echo(f"{dollars} dollars are thawing")
        if dollars is not None and not wait:
            return
        tx_hash = wait_until(lambda: _try_withdraw(client, retry=wait), "the money to thaw", THAW_SECONDS)
        typer.echo(f"withdrawn in transaction {tx_hash}")


def _try_withdraw(client: ApiClient, *, retry: bool) -> str | None:
    """Return the transaction's hash; with `retry`, None while the money is still thawing."""
    from backend.client import payments as calls

    try:
        return calls.withdraw(client).tx_hash
    except ApiError as error:
        if retry and error.details.get("error") == "StillThawing":
            return None
        raise
