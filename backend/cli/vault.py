"""`loraledger withdraw`, `revoke-session` and `cancel-nonce`: transactions of a payer that need no market."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import Actor, acting
from backend.cli.amounts import parse_dollars
from backend.cli.output import echo, in_utc
from backend.cli.payments import PAYER, OperatorOption
from backend.client.errors import ApiError, NotAMarket
from backend.client.waiting import wait_until
from backend.domain.caip import account_of
from backend.domain.chain import Reverted
from backend.domain.errors import Conflict, Unavailable
from backend.domain.money import in_dollars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.client.node import Mined
    from backend.client.signing import Wallet
    from backend.client.vault import VaultChannel
    from backend.domain.ids import Account

THAW_SECONDS = 30 * 86_400
"""Longer than the thaw period of any vault."""


class StillThawing(Conflict):
    """What is withdrawn has not thawed yet."""


def register(app: typer.Typer) -> None:
    app.command()(withdraw)
    app.command("revoke-session")(revoke_session)
    app.command("cancel-nonce")(cancel_nonce)


@acting(PAYER)
def withdraw(
    amount: Annotated[
        str | None,
        typer.Argument(
            metavar="DOLLARS",
            help="Amount to thaw, in dollars; 0 cancels the thaw. Default: withdraw what has thawed.",
        ),
    ] = None,
    *,
    operator: OperatorOption = "",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Wait until it has thawed, and withdraw it.",
        ),
    ] = False,
    actor: Actor,
) -> None:
    """Withdraw money from the wallet's channel. It thaws first; thawing money cannot be spent."""
    from backend.client import vault

    asked = None if amount is None else parse_dollars(amount, "DOLLARS")
    wallet = actor.wallet()
    whose = _operator(actor, wallet, operator)
    channel = vault.read_channel(wallet, whose)
    if asked is not None:
        _thaw(wallet, channel, asked)
        if not wait or not asked:
            return
    mined = wait_until(lambda: _try_withdraw(wallet, whose, retry=wait), "the money to thaw", THAW_SECONDS)
    paid = mined.event(vault.VAULT, "Withdrawn")["amount"]
    echo(f"withdrawn {in_dollars(paid)} in transaction {mined.tx_hash}")


@acting(PAYER)
def revoke_session(
    key: Annotated[str, typer.Argument(help="Account of the session key, as the deposit showed it.")],
    *,
    operator: OperatorOption = "",
    actor: Actor,
) -> None:
    """Revoke a session key of the wallet's channel for ever.

    Vouchers that it signs stay collectable for as long as money thaws.
    """
    from backend.client import vault

    wallet = actor.wallet()
    revoked = account_of(key, wallet.deployment.chain_id)
    with _explained():
        mined = vault.revoke_session(wallet, _operator(actor, wallet, operator), revoked)
    until = mined.event(vault.VAULT, "SessionRevoked")["collectableUntil"]
    vouchers = f"its vouchers can be collected until {in_utc(until)}" if until else "it was never granted"
    echo(f"{revoked} is revoked; {vouchers}")


@acting(PAYER)
def cancel_nonce(*, actor: Actor) -> None:
    """Void the grant, revocation or move that the wallet signed last, if nobody has sent it."""
    from backend.client import vault

    wallet = actor.wallet()
    nonce = vault.next_nonce(wallet)
    mined = vault.cancel_nonce(wallet, nonce)
    echo(f"nonce {nonce} is cancelled in transaction {mined.tx_hash}")


def _operator(actor: Actor, wallet: Wallet, named: str) -> Account:
    """The operator that is named, or else the market's. The market's word decides nothing but whose channel
    it is, which is shown before anything is signed.
    """
    chain_id = wallet.deployment.chain_id
    if named:
        return account_of(named, chain_id)
    try:
        with actor.browse() as market:
            return account_of(str(market.get("/v1/operator")["account"]), chain_id)
    except (ApiError, NotAMarket, Unavailable) as error:
        error.message += "; with --operator ACCOUNT, no market is asked"
        raise


def _thaw(wallet: Wallet, channel: VaultChannel, amount: int) -> None:
    from backend.client import vault

    with _explained():
        thawed_at = vault.thaw(wallet, channel, amount).event(vault.VAULT, "ThawStarted")["thawedAt"]
    if amount:
        echo(f"thawing {in_dollars(amount)}; `loraledger withdraw` withdraws it from {in_utc(thawed_at)} on")
    else:
        echo("the thaw is cancelled")


def _try_withdraw(wallet: Wallet, operator: Account, *, retry: bool) -> Mined | None:
    """With `retry`, None while the money is still thawing."""
    from backend.client import vault

    try:
        with _explained():
            return vault.withdraw(wallet, operator)
    except StillThawing:
        if retry:
            return None
        raise


@contextmanager
def _explained() -> Iterator[None]:
    """Say in dollars and times why the vault refuses a call. Errors: `Conflict`, `StillThawing`."""
    try:
        yield
    except Reverted as error:
        raise _refusal(error) from error


def _refusal(error: Reverted) -> Conflict | Reverted:
    args = error.args_by_name
    match error.error:
        case "NothingThawing":
            return Conflict("nothing is thawing; `loraledger withdraw DOLLARS` starts to withdraw an amount")
        case "InsufficientBalance":
            held, asked = (in_dollars(args[name]) for name in ("balance", "amount"))
            return Conflict(f"the channel holds {held}, less than {asked}")
        case "ZeroAmount":
            return Conflict("what thawed has left the channel: the operator collected it, or moved it")
        case "StillThawing":
            return StillThawing(
                f"the money thaws until {in_utc(args['thawedAt'])}; --wait waits, and withdraws it"
            )
        case "SessionIsRevoked":
            return Conflict(f"{args['key']} is revoked already")
        case _:
            return error
