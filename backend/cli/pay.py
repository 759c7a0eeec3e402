"""A payer on the command line: money into the channel, and out again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.client import ApiRefused, until
from backend.cli.session import AsJson, User, open_market, show
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from backend.cli.client import Market

INDEXED_SECONDS = 120
SESSION_SECONDS = 24 * 3600
UNITS_PER_DOLLAR = 1_000_000
MICRO_UNITS = 1_000_000
"""Of a token unit."""
THAW_SECONDS = 30 * 86_400
"""Longer than any vault's."""
PAYER = 7
NEEDS_VOUCHER = "insufficient_authorisation"


def register(app: typer.Typer) -> None:
    for command in (deposit, balance, withdraw):
        app.command()(command)


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


def balance(*, user: User = PAYER, as_json: AsJson = False) -> None:
    """Show what is in the wallet's channels, in micro-units."""
    with open_market(user) as market:
        channels = market.all("/v1/channels")
    if as_json:
        show(channels)
        return
    for line in channels:
        facts = ", ".join(f"{name} {int(line[name]):,}" for name in ("balance", "available", "thawing"))
        typer.echo(f"channel {line['id']}: {facts} micro-units")


def withdraw(
    dollars: Annotated[
        float | None,
        typer.Argument(help="How much is to thaw, in test dollars; left out: take what has thawed.", min=0),
    ] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has thawed, and take it.")] = False,
    user: User = PAYER,
) -> None:
    """Take money out of the wallet's channel: it thaws first, and cannot be spent meanwhile."""
    with open_market(user) as market:
        if dollars is not None:
            amount = str(round(dollars * UNITS_PER_DOLLAR) * MICRO_UNITS)
            market.wallet.send(market.post("/v1/withdrawals/thaw/prepare", {"amount": amount}))
            typer.echo(f"{dollars} dollars thaw")
        if dollars is not None and not wait:
            return
        sent = until(lambda: _withdrawn(market, is_patient=wait), "the money to thaw", THAW_SECONDS)
        typer.echo(f"withdrawn, in transaction {sent}")


def _withdrawn(market: Market, *, is_patient: bool) -> str | None:
    """The transaction's hash; None while the vault says that it is too early."""
    try:
        found = market.wallet.send(market.post("/v1/withdrawals/prepare"))
    except ApiRefused as error:
        if is_patient and error.details.get("error") == "StillThawing":
            return None
        raise
    return f"0x{bytes(found['transactionHash']).hex()}"


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


def post_paid(market: Market, path: str, body: Any) -> Any:
    """What the API answers to a request that costs. Where nothing is missing but leave to charge for it, the
    wallet signs a voucher for what it can cost at most.
    """
    try:
        return market.post(path, body)
    except ApiRefused as refused:
        if refused.details["code"] != NEEDS_VOUCHER:
            raise
        end = _sign_voucher(market, refused.details["channel_id"], int(refused.details["required"]))
    typer.echo(f"signed that the channel may be charged up to {end:,} micro-units", err=True)
    return market.post(path, body)


def _sign_voucher(market: Market, channel_id: str, required: int) -> int:
    """For `required` micro-units beyond what is charged and reserved; where the channel's line ends by it."""
    from backend.domain.eip712 import payload
    from backend.domain.hashing import VOUCHER_TYPE

    path = f"/v1/channels/{channel_id}"
    channel = market.get(path)
    end = int(channel["charged"]) + int(channel["reserved"]) + required
    message = {"channelId": channel_id, "from": "0", "maxCumulative": str(end)}
    signature = market.wallet.sign_typed_data(payload(channel["voucher_domain"], VOUCHER_TYPE, message))
    market.post(f"{path}/vouchers", {"max_cumulative": str(end), "signature": signature})
    return end


def make_key(market: Market, name: str) -> str:
    """The secret of a new API key; it is shown this once."""
    return str(market.post("/v1/keys", {"name": name})["secret"])
