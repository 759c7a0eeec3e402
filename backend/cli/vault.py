"""`loraledger withdraw`, `revoke-session` and `cancel-nonce`: transactions of a payer that need no market."""

from __future__ import annotations

from contextlib import contextmanager
from time import sleep, time
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import PAYER, Actor, acting
from backend.cli.amounts import parse_dollars
from backend.cli.output import echo, in_utc
from backend.cli.payments import OperatorOption
from backend.client.errors import ApiError, NotAMarket
from backend.domain.caip import account_of
from backend.domain.chain import Reverted
from backend.domain.errors import Conflict, NotFound, Unavailable
from backend.domain.money import in_dollars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.client.node import Mined
    from backend.client.signing import Wallet
    from backend.client.vault import VaultChannel
    from backend.domain.ids import Account

RETRY_SECONDS = 10
NOTICE_SECONDS = 3600
"""Longest time in which `withdraw --wait` prints nothing."""


class StillThawing(Conflict):
    """What is withdrawn has not thawed yet."""

    thawed_at: int = 0
    """Unix seconds."""


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
            help="Wait until it has thawed, and withdraw it. Unattended, this needs --yes and a password "
            "file.",
        ),
    ] = False,
    is_replaced: Annotated[
        bool, typer.Option("--replace", help="Replace what thaws already: the thaw begins again.")
    ] = False,
    actor: Actor,
) -> None:
    """Withdraw money from the wallet's channel. It thaws first; thawing money cannot be spent.

    An amount that thaws already is withdrawn: it does not begin to thaw again.
    """
    from backend.client import vault

    if amount is None and is_replaced:
        raise typer.BadParameter("needs DOLLARS", param_hint="--replace")
    asked = None if amount is None else parse_dollars(amount, "DOLLARS")
    wallet = actor.wallet()
    whose = _operator(actor, wallet, operator)
    channel = vault.read_channel(wallet, whose)
    if asked is not None and (is_replaced or asked != channel.thawing):
        thawed_at = _thaw(wallet, channel, asked, is_replaced=is_replaced)
        if not wait or not asked:
            return
        _pause(thawed_at)  # also for a node that does not show the thaw yet
    mined = _withdraw_once_thawed(wallet, whose) if wait else _withdraw(wallet, whose)
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
    """Void the grants, revocations and moves that the wallet signed with its next nonce in the vault.

    Repeat it for each later nonce that was shown when one was signed. A deposit has no such nonce: its
    authorisation expires within a day, like the deadline of a move.
    """
    from backend.client import vault

    wallet = actor.wallet()
    nonce = wallet.next_nonce(vault.VAULT)
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
    except (ApiError, NotAMarket, NotFound, Unavailable) as error:
        error.message += "; with --operator ACCOUNT, no market is asked"
        raise


def _thaw(wallet: Wallet, channel: VaultChannel, amount: int, *, is_replaced: bool) -> int:
    """Returns the time from which it can be withdrawn, in unix seconds. Errors: `Conflict` if something thaws
    already, unless it is cancelled or `is_replaced`.
    """
    from backend.client import vault

    if amount and channel.thawing and not is_replaced:
        raise Conflict(
            f"already thawing: {in_dollars(channel.thawing)}, which `loraledger withdraw` withdraws from "
            f"{in_utc(channel.thawed_at)} on; --replace has {in_dollars(amount)} thaw in its place, for the "
            "whole time again"
        )
    with _explained():
        mined = vault.thaw(wallet, channel, amount)
    thawed_at = int(mined.event(vault.VAULT, "ThawStarted")["thawedAt"])
    if amount:
        echo(f"thawing {in_dollars(amount)}; `loraledger withdraw` withdraws it from {in_utc(thawed_at)} on")
    else:
        echo("the thaw is cancelled")
    return thawed_at


def _withdraw(wallet: Wallet, operator: Account) -> Mined:
    from backend.client import vault

    with _explained():
        return vault.withdraw(wallet, operator)


def _withdraw_once_thawed(wallet: Wallet, operator: Account) -> Mined:
    """Wait for the thaw, for days. A node that is behind, fails or does not answer is asked again, unless it
    refuses the signed transaction.
    """
    from backend.client import vault
    from backend.client.node import NodeRefusal

    thawed_at = 0
    while True:
        try:
            thawed_at = vault.read_channel(wallet, operator).thawed_at
            return _withdraw(wallet, operator)
        except StillThawing as error:
            _pause(error.thawed_at)
        except (NodeRefusal, Unavailable) as error:
            if "tx_hash" in error.details:
                raise
            # A node may refuse a call during the thaw without the data that say why.
            echo(f"{error}; waiting", err=True)
            sleep(_seconds_until(thawed_at))


def _pause(thawed_at: int) -> None:
    echo(f"the money thaws until {in_utc(thawed_at)}; waiting", err=True)
    sleep(_seconds_until(thawed_at))


def _seconds_until(thawed_at: int) -> float:
    return min(max(thawed_at - time(), RETRY_SECONDS), NOTICE_SECONDS)


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
            found = StillThawing(
                f"the money thaws until {in_utc(args['thawedAt'])}; --wait waits, and withdraws it"
            )
            found.thawed_at = args["thawedAt"]
            return found
        case "SessionIsRevoked":
            return Conflict(f"{args['key']} is revoked already")
        case _:
            return error
