"""`loraledger deposit`, `balance` and `withdraw`: manage a payer's channel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.api_client import ApiError, wait_until
from backend.cli.session import AsJson, User, open_client, print_json
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from backend.cli.api_client import ApiClient

INDEXED_SECONDS = 120
SESSION_SECONDS = 24 * 3600
UNITS_PER_DOLLAR = 1_000_000
MICRO_UNITS = 1_000_000
"""Micro-units in a token unit."""
THAW_SECONDS = 30 * 86_400
"""Longer than the thaw period of any vault."""
PAYER = 7
NEEDS_VOUCHER = "insufficient_authorisation"


def register(app: typer.Typer) -> None:
    for command in (deposit, balance, withdraw):
        app.command()(command)


def deposit(
    dollars: Annotated[float, typer.Argument(help="Amount to deposit, in test dollars.", min=0.001)],
    *,
    user: User = PAYER,
) -> None:
    """Deposit test dollars in the wallet's channel, and grant the gateway a session key for one day."""
    with open_client(user) as client:
        channel_id = make_deposit(client, round(dollars * UNITS_PER_DOLLAR))
        channel = client.get(f"/v1/channels/{channel_id}")
    typer.echo(f"channel {channel_id}: {int(channel['available']):,} micro-units can be spent")


def balance(*, user: User = PAYER, as_json: AsJson = False) -> None:
    """Show the balances of the wallet's channels, in micro-units."""
    with open_client(user) as client:
        channels = client.list_all("/v1/channels")
    if as_json:
        print_json(channels)
        return
    for channel in channels:
        amounts = ", ".join(f"{name} {int(channel[name]):,}" for name in ("balance", "available", "thawing"))
        typer.echo(f"channel {channel['id']}: {amounts} micro-units")


def withdraw(
    dollars: Annotated[
        float | None,
        typer.Argument(
            help="Amount to start thawing, in test dollars. Default: withdraw what has thawed.", min=0
        ),
    ] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has thawed, and withdraw it.")] = False,
    user: User = PAYER,
) -> None:
    """Withdraw money from the wallet's channel. It thaws first; thawing money cannot be spent."""
    with open_client(user) as client:
        if dollars is not None:
            amount = str(round(dollars * UNITS_PER_DOLLAR) * MICRO_UNITS)
            client.wallet.send(client.post("/v1/withdrawals/thaw/prepare", {"amount": amount}))
            typer.echo(f"{dollars} dollars are thawing")
        if dollars is not None and not wait:
            return
        tx_hash = wait_until(lambda: _try_withdraw(client, retry=wait), "the money to thaw", THAW_SECONDS)
        typer.echo(f"withdrawn in transaction {tx_hash}")


def _try_withdraw(client: ApiClient, *, retry: bool) -> str | None:
    """Return the transaction's hash; with `retry`, None while the money is still thawing."""
    try:
        tx_receipt = client.wallet.send(client.post("/v1/withdrawals/prepare"))
    except ApiError as error:
        if retry and error.details.get("error") == "StillThawing":
            return None
        raise
    return f"0x{bytes(tx_receipt['transactionHash']).hex()}"


def make_deposit(client: ApiClient, units: int) -> str:
    """Sign a relayed deposit that grants the gateway a session key; returns the channel's id once the deposit
    can be spent.
    """
    before = sum(int(c["balance"]) for c in client.get("/v1/channels")["data"])
    session = {"expiry": int(time.time()) + SESSION_SECONDS}
    prepared = client.post("/v1/deposits/prepare", {"units": str(units), "session": session})
    if prepared["relay"] is None:
        raise Conflict(
            "the payment token does not support deposits by signature: send the transactions that "
            "POST /v1/deposits/prepare returns"
        )
    signature = client.wallet.sign_typed_data(prepared["typed_data"])
    client.wait_confirmed(
        client.post("/v1/deposits/relay", {"relay": prepared["relay"], "signature": signature})
    )
    channel_id = str(prepared["channel_id"])

    def is_spendable() -> bool | None:
        channels = [c for c in client.get("/v1/channels")["data"] if c["id"] == channel_id]
        is_indexed = sum(int(c["balance"]) for c in channels) > before
        return (is_indexed and any(int(c["available"]) > 0 for c in channels)) or None

    wait_until(is_spendable, "the deposit to be indexed", INDEXED_SECONDS)
    return channel_id


def post_paid(client: ApiClient, path: str, body: Any) -> Any:
    """Post a request that is charged for. If only authorisation is missing, the wallet signs a voucher for
    the most that the request can cost.
    """
    try:
        return client.post(path, body)
    except ApiError as error:
        if error.details["code"] != NEEDS_VOUCHER:
            raise
        cumulative = _sign_voucher(client, error.details["channel_id"], int(error.details["required"]))
    typer.echo(f"signed a voucher for {cumulative:,} micro-units in all on this channel", err=True)
    return client.post(path, body)


def _sign_voucher(client: ApiClient, channel_id: str, required: int) -> int:
    """Authorise `required` micro-units beyond what is charged and reserved; returns the new cumulative."""
    from backend.domain.eip712 import build_typed_data
    from backend.domain.hashing import VOUCHER_TYPE

    path = f"/v1/channels/{channel_id}"
    channel = client.get(path)
    cumulative = int(channel["charged"]) + int(channel["reserved"]) + required
    message = {"channelId": channel_id, "from": "0", "maxCumulative": str(cumulative)}
    signature = client.wallet.sign_typed_data(
        build_typed_data(channel["voucher_domain"], VOUCHER_TYPE, message)
    )
    client.post(f"{path}/vouchers", {"max_cumulative": str(cumulative), "signature": signature})
    return cumulative


def create_key(client: ApiClient, name: str) -> str:
    """Create an API key; returns its secret, which cannot be read again."""
    return str(client.post("/v1/keys", {"name": name})["secret"])
