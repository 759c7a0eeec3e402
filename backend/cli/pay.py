"""A payer on the command line: money into the channel, and keys to spend it with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.client import until
from backend.cli.session import User, open_market
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from backend.cli.client import Market

INDEXED_SECONDS = 120
SESSION_SECONDS = 24 * 3600
UNITS_PER_DOLLAR = 1_000_000
PAYER = 7


def register(app: typer.Typer) -> None:
    app.command()(deposit)
    app.command()(key)


def deposit(
    dollars: Annotated[float, typer.Argument(help="How much, in test dollars.", min=0.001)],
    *,
    user: User = PAYER,
) -> None:
    """Put test dollars into the wallet's channel and let the gateway hold a session key for a day."""
    with open_market(user) as market:
        channel = make_deposit(market, round(dollars * UNITS_PER_DOLLAR))
        line = market.get(f"/v1/channels/{channel}")
    typer.echo(f"channel {channel}: {int(line['available']):,} micro-units can be spent")


def key(
    name: Annotated[str, typer.Argument(help="What you will know it by.")] = "command line",
    *,
    user: User = PAYER,
) -> None:
    """Make an API key that spends the wallet's channel; it is shown this once."""
    with open_market(user) as market:
        typer.echo(make_key(market, name))


def make_deposit(market: Market, units: int) -> str:
    """Sign a relayed deposit with a session key for the gateway; the channel's id once it can be spent."""
    before = sum(int(c["balance"]) for c in market.get("/v1/channels")["data"])
    session = {"expiry": int(time.time()) + SESSION_SECONDS}
    prepared = market.post("/v1/deposits/prepare", {"units": str(units), "session": session})
    if prepared["relay"] is None:
        raise Conflict("the payment token takes no deposit by signature: send the prepared transactions")
    signature = market.wallet.sign_typed_data(prepared["typed_data"])
    market.wait_for(market.post("/v1/deposits/relay", {"relay": prepared["relay"], "signature": signature}))
    channel_id = str(prepared["channel_id"])

    def spendable() -> bool | None:
        channels = [c for c in market.get("/v1/channels")["data"] if c["id"] == channel_id]
        is_indexed = sum(int(c["balance"]) for c in channels) > before
        return (is_indexed and any(int(c["available"]) > 0 for c in channels)) or None

    until(spendable, "the deposit to count", INDEXED_SECONDS)
    return channel_id


def make_key(market: Market, name: str) -> str:
    """The secret of a new API key; it is shown this once."""
    return str(market.post("/v1/keys", {"name": name})["secret"])
