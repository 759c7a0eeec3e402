"""`loraledger deposit`, `balance` and `move`: manage a payer's channel at the market."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.actor import PAYER, Actor, acting
from backend.cli.amounts import dollars, parse_dollars, parse_units
from backend.cli.output import AsJson, echo, in_utc, note_if_empty, print_json
from backend.domain.caip import account_of
from backend.domain.money import AMOUNT, in_dollars

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

OperatorOption = Annotated[
    str,
    typer.Option(
        "--operator",
        metavar="ACCOUNT",
        help="Operator of the wallet's channel. With it, no market is asked. Default: the market's.",
    ),
]


def register(app: typer.Typer) -> None:
    for command in (deposit, balance, move):
        app.command()(command)


@acting(PAYER)
def deposit(
    amount: Annotated[str, typer.Argument(metavar="DOLLARS", help="Amount to deposit, in dollars.")],
    *,
    without_session: Annotated[
        bool,
        typer.Option(
            "--no-session",
            help="Grant the gateway no session key: `chat`, `proxy` and `train create` then sign vouchers.",
        ),
    ] = False,
    actor: Actor,
) -> None:
    """Deposit dollars in the wallet's channel, and grant the gateway a session key for one day, or for as
    long as it says that it already holds one, which cannot be shortened; with --yes for no longer than a day.
    What is signed is shown first.

    With it the gateway can charge up to what the channel then holds, without a signature for each answer.
    """
    from backend.client import payments as calls

    units = parse_units(amount, "DOLLARS")
    with actor.connect() as client:
        longest = calls.SESSION_SECONDS if actor.is_agreed else calls.MAX_SESSION_SECONDS
        channel_id = calls.deposit(client, units, with_session=not without_session, longest_session=longest)
        channel = client.get(f"/v1/channels/{channel_id}")
    held, available = dollars(channel["balance"]), dollars(channel["available"])
    without = f"holds {held}, of which {available} can be spent without a further voucher"
    echo(f"channel {channel_id}: {without if without_session else f'{available} can be spent'}")


def say_voucher(cumulative: int) -> None:
    echo(f"signed a voucher for {in_dollars(cumulative)} in all on this channel", err=True)


@acting(PAYER)
def balance(*, operator: OperatorOption = "", actor: Actor, as_json: AsJson = False) -> None:
    """Show the balances and session keys of the wallet's channels.

    What a session key signs can be collected for the vault's thaw after its expiry or revocation. A key is
    shown for the longest thaw that a vault can have, 28 days.
    With --operator, the channel is read from the vault, which knows nothing of charges before they are
    collected.
    """
    if operator:
        channels = [_on_chain(actor, operator)]
    else:
        with actor.connect() as client:
            channels = client.list_all("/v1/channels")
    if as_json:
        print_json(channels)
        return
    note_if_empty(channels, "no channel; `loraledger deposit` opens one")
    for channel in channels:
        names = [name for name in ("balance", "available", "thawing", "moving") if name in channel]
        amounts = ", ".join(f"{name} {dollars(channel[name])}" for name in names)
        until = f"; can be withdrawn from {in_utc(channel['thawed_at'])} on" if channel["thawed_at"] else ""
        echo(f"channel {channel['id']} with operator {channel['operator']}: {amounts}{until}")
        for line in _session_lines(channel.get("sessions", [])):
            echo(line)


def _session_lines(sessions: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The session keys whose vouchers may still be collected."""
    from backend.client.payments import collectable_until

    for session in sessions:
        if (latest := collectable_until(session)) <= time():
            continue
        if session["revoked_at"] is not None:
            state = f"revoked {in_utc(session['revoked_at'])}"
        else:
            state = f"{'until' if session['expiry'] > time() else 'expired'} {in_utc(session['expiry'])}"
        holder = "the gateway holds it" if session["is_custodial"] else "you hold it"
        yield (
            f"  session key {session['key']} ({holder}): up to {dollars(session['cap'])} in all, {state}; "
            f"what it signs can be collected until {in_utc(latest)} at the latest"
        )


def _on_chain(actor: Actor, operator: str) -> dict[str, Any]:
    """What the vault knows of a channel, as the market states it."""
    from backend.client.vault import read_channel

    wallet = actor.wallet()
    channel = read_channel(wallet, account_of(operator, wallet.deployment.chain_id))
    amounts = {name: AMOUNT.render(getattr(channel, name)) for name in ("balance", "collected", "thawing")}
    return {"id": channel.id, "operator": channel.operator, **amounts, "thawed_at": channel.thawed_at}


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

    most = None if amount is None else parse_dollars(amount, "DOLLARS")
    with actor.connect() as client:
        account = account_of(collector, client.wallet.deployment.chain_id)
        moved = calls.move(client, account, most)
    echo(f"moved {in_dollars(moved)} to the channel under {account}")
