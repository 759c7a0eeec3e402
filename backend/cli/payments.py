"""`loraledger deposit`, `balance`, `move` and `withdraw`: manage a payer's channel."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import Actor, acting
from backend.cli.amounts import dollars, parse_dollars, parse_units
from backend.cli.output import AsJson, echo, in_utc, note_if_empty, print_json
from backend.client.errors import ApiError
from backend.client.waiting import wait_until
from backend.domain.errors import Conflict
from backend.domain.money import in_dollars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.client.api import ApiClient

THAW_SECONDS = 30 * 86_400
"""Longer than the thaw period of any vault."""
PAYER = 7


class StillThawing(Conflict):
    """What is withdrawn has not thawed yet."""


def register(app: typer.Typer) -> None:
    for command in (deposit, balance, move, withdraw):
        app.command()(command)


@acting(PAYER)
def deposit(
    amount: Annotated[str, typer.Argument(metavar="DOLLARS", help="Amount to deposit, in dollars.")],
    *,
    actor: Actor,
) -> None:
    """Deposit dollars in the wallet's channel, and grant the gateway a session key for one day."""
    from backend.client import payments as calls

    units = parse_units(amount, "DOLLARS")
    with actor.connect() as client:
        channel_id = calls.deposit(client, units)
        channel = client.get(f"/v1/channels/{channel_id}")
    echo(f"channel {channel_id}: {dollars(channel['available'])} can be spent")


@acting(PAYER)
def balance(*, actor: Actor, as_json: AsJson = False) -> None:
    """Show the balances of the wallet's channels."""
    with actor.connect() as client:
        channels = client.list_all("/v1/channels")
    if as_json:
        print_json(channels)
        return
    note_if_empty(channels, "no channel; `loraledger deposit` opens one")
    for channel in channels:
        names = ("balance", "available", "thawing", "moving")
        amounts = ", ".join(f"{name} {dollars(channel[name])}" for name in names)
        until = f"; can be withdrawn from {in_utc(channel['thawed_at'])} on" if channel["thawed_at"] else ""
        echo(f"channel {channel['id']}: {amounts}{until}")


@acting(PAYER)
def move(
    amount: Annotated[
        str | None,
        typer.Argument(metavar="DOLLARS", help="Most to move, in dollars. Default: the whole balance."),
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

    most = None if amount is None else parse_dollars(amount, "DOLLARS")
    with actor.connect() as client:
        account = account_of(collector, client.wallet.deployment.chain_id)
        moved = calls.move(client, account, most)
    echo(f"moved {in_dollars(moved)} to the channel under {account}")


@acting(PAYER)
def withdraw(
    amount: Annotated[
        str | None,
        typer.Argument(
            metavar="DOLLARS",
            help="Amount to start thawing, in dollars. Default: withdraw what has thawed.",
        ),
    ] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has thawed, and withdraw it.")] = False,
    actor: Actor,
) -> None:
    """Withdraw money from the wallet's channel. It thaws first; thawing money cannot be spent."""
    from backend.client import payments as calls

    thawing = None if amount is None else parse_dollars(amount, "DOLLARS")
    with actor.connect() as client:
        if thawing is not None:
            with _explained():
                calls.thaw(client, thawing)
            echo(f"thawing {in_dollars(thawing)}; `loraledger balance` shows when it can be withdrawn")
        if thawing is not None and not wait:
            return
        tx_hash = wait_until(lambda: _try_withdraw(client, retry=wait), "the money to thaw", THAW_SECONDS)
        echo(f"withdrawn in transaction {tx_hash}")


def _try_withdraw(client: ApiClient, *, retry: bool) -> str | None:
    """Return the transaction's hash; with `retry`, None while the money is still thawing."""
    from backend.client import payments as calls

    try:
        with _explained():
            return calls.withdraw(client).tx_hash
    except StillThawing:
        if retry:
            return None
        raise


@contextmanager
def _explained() -> Iterator[None]:
    """Say in dollars and times why the vault refuses a withdrawal. Errors: `Conflict`, `StillThawing`."""
    try:
        yield
    except ApiError as error:
        args = error.details.get("args") or {}
        match error.details.get("error"):
            case "NothingThawing":
                message = "nothing is thawing; `loraledger withdraw DOLLARS` starts to withdraw an amount"
            case "InsufficientBalance":
                held, asked = (in_dollars(int(args[name])) for name in ("balance", "amount"))
                message = f"the channel holds {held}, less than {asked}"
            case "StillThawing":
                message = f"the money thaws until {in_utc(args['thawedAt'])}; --wait waits, and withdraws it"
                raise StillThawing(message) from error
            case _:
                raise
        raise Conflict(message) from error
