"""`loraledger operator`: this installation's place in the market."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.client import until
from backend.cli.session import AsJson, open_installation, show
from backend.domain.errors import Conflict
from backend.domain.hashing import version_id
from backend.domain.money import MICRO_PER_DOLLAR, UNITS_PER_DOLLAR, in_dollars
from backend.domain.transactions import TransactionState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backend.domain.transactions import ChainTransaction
    from backend.installation.base_model import Offer
    from backend.services.operator.membership import Membership, Place

CONFIRMED_SECONDS = 1800
LOCKED_SECONDS = 90 * 86_400
"""Longer than any stake is locked."""
LOOK_SECONDS = 2.0

Wait = Annotated[bool, typer.Option("--wait", help="Until `loraledger send` has it confirmed.")]

commands = typer.Typer(
    help="Stake, receipt key, endpoint and base model of this operator.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="operator")


@commands.command("show")
def show_place(*, as_json: AsJson = False) -> None:
    """What the market has of this operator. Exit code 1 if it could not settle, with what to do."""
    with _membership() as membership:
        found = membership.place()
    if as_json:
        show(_as_json(found))
    else:
        for name, text in _lines(found):
            typer.echo(f"{name:12} {text}")
    for obstacle in found.obstacles:
        typer.echo(f"cannot settle: {obstacle}", err=True)
    if found.obstacles:
        raise typer.Exit(1)


@commands.command()
def join(
    *,
    stake: Annotated[float, typer.Option(help="Dollars that the stake is brought to.", min=0.000001)],
    wait: Wait = False,
) -> None:
    """Stake and register the receipt key, as far as that is not done yet; may be repeated."""
    with _membership() as membership:
        _follow(membership.transaction, membership.join(round(stake * UNITS_PER_DOLLAR)), is_patient=wait)


@commands.command()
def base(
    *,
    prices: Annotated[
        tuple[int, int],
        typer.Option(
            help="Of the bare base model: token units per million prompt tokens, and completion tokens. "
            "A dollar is 1,000,000 token units."
        ),
    ],
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Note the base model that is served here, and register by which records its answers and training on it
    are sold, as far as that is not done yet; may be repeated, and with other prices.
    """
    from backend.installation.base_model import offers_of, prepare_offer

    with open_installation() as installation:
        installation.prepare_database()
        offer, offers = prepare_offer(installation, prices), offers_of(installation)
        offers.check(offer.base)
        if not as_json:
            for line in _offer_lines(offer):
                typer.echo(line)
        queued = offers.register(offer.records)
        done = _follow(offers.transaction, queued, is_patient=wait, is_aside=as_json)
    if as_json:
        show(_offer_as_json(offer, done))


@commands.command()
def endpoint(
    url: Annotated[str, typer.Argument(help="Base URL of the API, as others reach it; '' for none.")],
    *,
    wait: Wait = False,
) -> None:
    """Register where this operator serves: others fetch adapters and batch data there."""
    with _membership() as membership:
        _follow(membership.transaction, [membership.announce(url)], is_patient=wait)


@commands.command()
def unstake(
    dollars: Annotated[float, typer.Argument(help="How much of the stake is to leave; 0 keeps all.", min=0)],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is free, and take it.")] = False,
) -> None:
    """Ask a part of the stake back, in the place of what was asked back before. It is locked first."""
    with _membership() as membership:
        units = round(dollars * UNITS_PER_DOLLAR)
        queued = membership.unstake(units * (MICRO_PER_DOLLAR // UNITS_PER_DOLLAR))
        _follow(membership.transaction, queued, is_patient=wait)
        if wait and units:
            taken = until(lambda: _taken(membership), "the stake to be free", LOCKED_SECONDS)
            _follow(membership.transaction, taken, is_patient=True)


@commands.command()
def withdraw(*, wait: Wait = False) -> None:
    """Take what has left the stake, and what slashes of others owe this account."""
    with _membership() as membership:
        _follow(membership.transaction, membership.withdraw(), is_patient=wait)


@contextmanager
def _membership() -> Iterator[Membership]:
    """With tables in the database: an operator joins before anything else has run here."""
    with open_installation() as installation:
        installation.prepare_database()
        yield installation.membership


def _follow(
    find: Callable[[int], ChainTransaction],
    queued: Sequence[ChainTransaction],
    *,
    is_patient: bool,
    is_aside: bool = False,
) -> list[ChainTransaction]:
    """Say each transaction, and if `is_patient` how it ended; `is_aside`: where it is in nobody's way.

    Errors: `Conflict` for one that failed.
    """
    for each in queued:
        typer.echo(f"transaction {each.id}, {each.contract}.{each.function}, is {each.state}", err=is_aside)
    if not queued:
        typer.echo("nothing is missing", err=is_aside)
    if not is_patient:
        return list(queued)
    return [_confirmed(find, each.id, is_aside=is_aside) for each in queued]


def _confirmed(
    find: Callable[[int], ChainTransaction], transaction: int, *, is_aside: bool
) -> ChainTransaction:
    def probe() -> ChainTransaction | None:
        found = find(transaction)
        if found.state is TransactionState.FAILED:
            why = (found.error or {}).get("message", "for no reason given")
            raise Conflict(f"transaction {found.id}, {found.contract}.{found.function}, failed: {why}")
        return found if found.state is TransactionState.CONFIRMED else None

    what = f"transaction {transaction} to be confirmed: see that `loraledger send` runs"
    done = until(probe, what, CONFIRMED_SECONDS)
    typer.echo(
        f"transaction {done.id}, {done.contract}.{done.function}, is confirmed: {done.hash}", err=is_aside
    )
    return done


def _taken(membership: Membership) -> list[ChainTransaction] | None:
    from backend.services.operator.membership import StillLocked

    try:
        return membership.withdraw()
    except StillLocked:
        time.sleep(LOOK_SECONDS)
        return None


def _lines(place: Place) -> Iterator[tuple[str, str]]:
    from backend.services.operator.membership import instant

    yield "account", place.account
    yield "endpoint", place.endpoint or "none"
    yield "receipt key", f"{place.receipt_key}{'' if place.has_key else ', not registered'}"
    for other in place.keys:
        if other != place.receipt_key:
            yield "older key", other
    yield "stake", in_dollars(place.stake)
    if (leaving := place.leaving) is not None:
        batch = "" if leaving.locked_by is None else f", once batch {leaving.locked_by} is final"
        yield "leaving", f"{in_dollars(leaving.amount)}, from {instant(leaving.free_at)} on{batch}"
    yield (
        "cover",
        f"{in_dollars(place.cover)}, of which the next batch needs {in_dollars(place.cover_needed)}",
    )
    yield "owed", in_dollars(place.owed)
    yield "gas", f"{place.wei:,} wei"


def _as_json(place: Place) -> dict[str, Any]:
    """Amounts as decimal strings of micro-units, as in the API."""
    leaving = place.leaving
    return {
        "account": place.account,
        "endpoint": place.endpoint,
        "keys": list(place.keys),
        "receipt_key": place.receipt_key,
        "is_key_registered": place.has_key,
        "stake": str(place.stake),
        "leaving": None if leaving is None else asdict(leaving) | {"amount": str(leaving.amount)},
        "cover": str(place.cover),
        "cover_needed": str(place.cover_needed),
        "owed": str(place.owed),
        "wei": str(place.wei),
        "obstacles": list(place.obstacles),
    }


def _offer_lines(offer: Offer) -> Iterator[str]:
    facts, base = offer.facts, offer.base
    yield f"base model   {facts.name}, sha-256 {facts.digest[2:]}, in {facts.folder}"
    prices = f"{base.prompt_price:,} and {base.completion_price:,} token units"
    yield f"answers      {prices} per million prompt and completion tokens, by version {version_id(base)}"
    if (training := offer.training) is None:
        yield "training     free"
        return
    price = f"{training.prompt_price:,} token units per million tokens trained"
    yield f"training     {price}, by version {version_id(training)}"


def _offer_as_json(offer: Offer, transactions: Sequence[ChainTransaction]) -> dict[str, Any]:
    """Prices in token units per million tokens."""
    base, training = offer.base, offer.training
    return asdict(offer.facts) | {
        "prompt_price": base.prompt_price,
        "completion_price": base.completion_price,
        "version_id": version_id(base),
        "training_price": training.prompt_price if training else 0,
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
