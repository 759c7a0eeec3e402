"""`loraledger operator`: manage this operator's stake, receipt key, endpoint and base model."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.amounts import parse_price, parse_units
from backend.cli.operator.session import open_installation, parse_account
from backend.cli.output import AsJson, echo, print_json
from backend.client.waiting import CONFIRMED_SECONDS, wait_through_outages
from backend.domain.errors import Conflict
from backend.domain.hashing import version_id
from backend.domain.money import AMOUNT, COIN, PRICE, UNIT, in_dollars, price_in_dollars, prices_in_dollars
from backend.domain.texts import instant
from backend.domain.transactions import TransactionState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backend.domain.denials import FloorPrice
    from backend.domain.transactions import ChainTransaction
    from backend.installation.base_model import Offer
    from backend.installation.installation import Installation
    from backend.services.operator.key_rotation import KeyRotation, Rotation
    from backend.services.operator.membership import Membership, OperatorStatus

ROTATED_SECONDS = 1800
LOCKED_SECONDS = 90 * 86_400
"""Longer than any dispute window."""
LOCK_POLL_SECONDS = 2.0

Wait = Annotated[bool, typer.Option("--wait", help="Wait until `loraledger send` reports it confirmed.")]

commands = typer.Typer(
    help="Manage this operator's stake, receipt key, endpoint and base model.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="operator")


@commands.command("show")
def show_operator(*, as_json: AsJson = False) -> None:
    """Show this operator's status on the chain. Exit code 1, with remedies, if it cannot settle."""
    with open_installation() as installation:
        installation.check_database()
        status = installation.membership.status()
    if as_json:
        print_json(_as_json(status))
    else:
        for name, text in _lines(status):
            echo(f"{name:12} {text}")
    for obstacle in status.obstacles:
        echo(f"cannot settle: {obstacle}", err=True)
    if status.obstacles:
        raise typer.Exit(1)


@commands.command()
def join(
    *,
    stake: Annotated[str, typer.Option(metavar="DOLLARS", help="Stake to reach, in dollars.")],
    wait: Wait = False,
) -> None:
    """Top up the stake and register the receipt key, where missing. May be repeated."""
    units = parse_units(stake, "--stake")
    with _prepared() as installation:
        _follow(installation, installation.membership.join(units), wait=wait)


@commands.command()
def base(
    *,
    prices: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Prices of the base model without an adapter: dollars per million prompt tokens, and "
            "completion tokens. Default: those of LORALEDGER_BASES."
        ),
    ] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Prepare the base models of LORALEDGER_BASE_MODEL or LORALEDGER_BASES, and register their prices and
    those of training on them, where missing. May be repeated, also with other prices. The first time it sets
    the floor price (`loraledger policy floor`) to a fifth of the lowest prices.
    """
    asked = None
    if prices is not None:
        asked = parse_price(prices[0], "--prices"), parse_price(prices[1], "--prices")
    with _prepared() as installation:
        found, offers = installation.prepare_offers(asked), installation.offers
        for offer in found:
            offers.check(offer.base)
        floor = offers.set_first_floor([offer.base for offer in found])
        described = []
        if not as_json:
            lowest = prices_in_dollars(floor.prompt, floor.completion)
            echo(f"floor price  {lowest}, of what the operator earns")
        for offer in found:
            if not as_json:
                for line in _offer_lines(offer):
                    echo(line)
            queued = offers.register(offer.records)
            transactions = _follow(installation, queued, wait=wait, to_stderr=as_json)
            described.append(_offer_as_json(offer, floor, transactions))
    if as_json:
        print_json(described[0] if len(described) == 1 else described)


@commands.command()
def endpoint(
    url: Annotated[str, typer.Argument(help="Public base URL of the API; '' removes it.")],
    *,
    wait: Wait = False,
) -> None:
    """Register the operator's endpoint: others fetch adapters and batch data from it."""
    with _prepared() as installation:
        _follow(installation, [installation.membership.announce(url)], wait=wait)


@commands.command()
def unstake(
    amount: Annotated[
        str,
        typer.Argument(
            metavar="DOLLARS", help="Amount to unstake, in dollars; 0 cancels an earlier request."
        ),
    ],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is unlocked, and withdraw it.")] = False,
) -> None:
    """Request to unstake an amount. Replaces an earlier request; locked until the newest batch is final."""
    units = parse_units(amount, "DOLLARS")
    with _prepared() as installation:
        membership = installation.membership
        _follow(installation, membership.unstake(units * UNIT), wait=wait)
        if wait and units:
            what = "the stake to be unlocked"
            queued = wait_through_outages(lambda: _try_withdraw(membership), what, LOCKED_SECONDS)
            _follow(installation, queued, wait=True)


@commands.command()
def restake(
    amount: Annotated[str, typer.Argument(metavar="DOLLARS", help="Amount to move, in dollars.")],
    *,
    registry: Annotated[str, typer.Option(help="Address of the other generation's operator registry.")],
    wait: Wait = False,
) -> None:
    """Move stake to another generation's registry in one step, while no batch is pending."""
    units = parse_units(amount, "DOLLARS")
    with _prepared() as installation:
        account = parse_account(installation, registry)
        _follow(installation, installation.membership.restake(account, units), wait=wait)


@commands.command()
def withdraw(*, wait: Wait = False) -> None:
    """Withdraw unlocked stake, rewards from slashed operators, and what answers to demands earned."""
    with _prepared() as installation:
        _follow(installation, installation.membership.withdraw(), wait=wait)


@commands.command("rotate-key")
def rotate_key(
    keys: Annotated[list[str], typer.Argument(help="Receipt keys to retire for ever, such as leaked ones.")],
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all processes sign with the next key.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Retire receipt keys, and register the next one. May be repeated: it does what is missing.

    `loraledger settle` then signs the unsettled receipts again with the next key, and settles them.
    """
    with _prepared() as installation:
        accounts = [parse_account(installation, key) for key in keys]
        rotating = installation.key_rotation
        rotation = rotating.rotate(accounts)
        _follow(installation, rotation.transactions, wait=wait, to_stderr=as_json)
        if wait:
            what = "the next key to be in use: check that `loraledger index` and `loraledger settle` run"
            rotation = wait_through_outages(lambda: _done(rotating, rotation), what, ROTATED_SECONDS)
    if as_json:
        print_json(_rotation_as_json(rotation))
        return
    for line in _rotation_lines(rotation):
        echo(line)


@contextmanager
def _prepared() -> Iterator[Installation]:
    """Prepares the database first: `operator join` may be the first command in this home."""
    with open_installation() as installation:
        installation.prepare_database()
        yield installation


def _follow(
    installation: Installation,
    queued: Sequence[ChainTransaction],
    *,
    wait: bool,
    to_stderr: bool = False,
) -> list[ChainTransaction]:
    """Print the transactions; with `wait`, also how each ended. Errors: `Conflict` for one that failed."""
    for each in queued:
        echo(f"transaction {each.id}, {each.contract}.{each.function}, is {each.state}", err=to_stderr)
    if not queued:
        echo("nothing to do", err=to_stderr)
    if not wait:
        return list(queued)
    find = installation.operator_transactions.transaction
    return [_wait_confirmed(find, each.id, to_stderr=to_stderr) for each in queued]


def _wait_confirmed(
    find: Callable[[int], ChainTransaction], transaction: int, *, to_stderr: bool
) -> ChainTransaction:
    def probe() -> ChainTransaction | None:
        found = find(transaction)
        if found.state is TransactionState.FAILED:
            reason = (found.error or {}).get("message", "no reason given")
            raise Conflict(f"transaction {found.id}, {found.contract}.{found.function}, failed: {reason}")
        return found if found.state is TransactionState.CONFIRMED else None

    what = f"transaction {transaction} to be confirmed: check that `loraledger send` is running"
    confirmed = wait_through_outages(probe, what, CONFIRMED_SECONDS)
    echo(
        f"transaction {confirmed.id}, {confirmed.contract}.{confirmed.function}, is confirmed: "
        f"{confirmed.hash}",
        err=to_stderr,
    )
    return confirmed


def _done(rotating: KeyRotation, rotation: Rotation) -> Rotation | None:
    found = rotating.status(rotation)
    return found if found.is_done else None


def _rotation_lines(rotation: Rotation) -> Iterator[str]:
    for key in rotation.retiring:
        yield f"retired key  {key}"
    state = "in use" if rotation.is_indexed else "in use once both transactions are confirmed and indexed"
    yield f"next key     {rotation.next_key}, {state}"
    if rotation.is_indexed and not rotation.transactions:
        yield f"this time    no key was retired: receipts that {rotation.next_key} signed still count"
    for key in rotation.others:
        yield f"other key    {key} is not retired: receipts that it signed still count"
    yield f"receipts     {rotation.num_unsigned} unsettled ones are still to be signed again"
    if rotation.is_indexed:
        yield f"set LORALEDGER_RECEIPT_KEY={rotation.next_key} before the processes are started again"


def _rotation_as_json(rotation: Rotation) -> dict[str, Any]:
    return {
        "retiring": list(rotation.retiring),
        "next_key": rotation.next_key,
        "other_keys": list(rotation.others),
        "is_in_use": rotation.is_indexed,
        "receipts_to_sign": rotation.num_unsigned,
        "is_done": rotation.is_done,
        "transactions": [each.id for each in rotation.transactions],
    }


def _try_withdraw(membership: Membership) -> list[ChainTransaction] | None:
    """Return None while the stake is locked. What else can be withdrawn waits too: its transactions alone
    would end the wait.
    """
    from backend.services.operator.membership import StakeLocked

    try:
        return membership.withdraw(needs_stake=True)
    except StakeLocked:
        time.sleep(LOCK_POLL_SECONDS)
        return None


def _lines(status: OperatorStatus) -> Iterator[tuple[str, str]]:

    yield "account", status.account
    yield "endpoint", status.endpoint or "none"
    yield "receipt key", f"{status.receipt_key}{'' if status.has_key else ', not registered'}"
    for other in status.keys:
        if other in status.retired:
            yield "retired key", f"{other}, since {instant(status.retired[other])}"
        elif other != status.receipt_key:
            yield "other key", other
    yield "stake", in_dollars(status.stake)
    if (unstaking := status.unstaking) is not None:
        lock = (
            "unlocked"
            if unstaking.locked_by is None
            else f"locked until batch {unstaking.locked_by} is final"
        )
        yield "unstaking", f"{in_dollars(unstaking.amount)}, {lock}"
    yield "cover", f"{in_dollars(status.cover)}; the next batch needs {in_dollars(status.cover_needed)}"
    yield "owed", in_dollars(status.owed)
    yield "credit", f"{status.credit / COIN:,.9f} of the chain's coin"
    yield "gas", f"{status.wei / COIN:,.9f} of the chain's coin"


def _as_json(status: OperatorStatus) -> dict[str, Any]:
    """Amounts are objects, as in the API."""
    unstaking = status.unstaking
    return {
        "account": status.account,
        "endpoint": status.endpoint,
        "keys": list(status.keys),
        "retired_keys": dict(status.retired),
        "receipt_key": status.receipt_key,
        "is_key_registered": status.has_key,
        "stake": AMOUNT.render(status.stake),
        "unstaking": (
            None if unstaking is None else asdict(unstaking) | {"amount": AMOUNT.render(unstaking.amount)}
        ),
        "cover": AMOUNT.render(status.cover),
        "cover_needed": AMOUNT.render(status.cover_needed),
        "owed": AMOUNT.render(status.owed),
        "credit_wei": str(status.credit),
        "wei": str(status.wei),
        "obstacles": list(status.obstacles),
    }


def _offer_lines(offer: Offer) -> Iterator[str]:
    info, base = offer.info, offer.base
    yield f"base model   {info.name}, sha-256 {info.digest[2:]}, in {info.folder}"
    prices = prices_in_dollars(base.prompt_price, base.completion_price)
    yield f"answers      {prices}, by version {version_id(base)}"
    if (training := offer.training) is None:
        yield "training     free" if offer.trains else "training     not offered"
        return
    price = price_in_dollars(training.prompt_price)
    yield f"training     {price} trained, by version {version_id(training)}"


def _offer_as_json(
    offer: Offer, floor: FloorPrice, transactions: Sequence[ChainTransaction]
) -> dict[str, Any]:
    """Prices are objects, as in the API."""
    base, training = offer.base, offer.training
    info = offer.info
    return {
        "name": info.name,
        "digest": info.digest,
        "folder": info.folder,
        "prompt_price": PRICE.render(base.prompt_price),
        "completion_price": PRICE.render(base.completion_price),
        "min_prompt_price": PRICE.render(floor.prompt),
        "min_completion_price": PRICE.render(floor.completion),
        "version_id": version_id(base),
        "training_price": PRICE.render(training.prompt_price if training else 0) if offer.trains else None,
        "training_version_id": version_id(training) if training else None,
        "transactions": [
            {
                "id": each.id,
                "contract": each.contract,
                "function": each.function,
                "state": each.state,
                "hash": each.hash,
            }
            for each in transactions
        ],
    }
