"""`loraledger train`: estimate, create and follow fine-tuning jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.actor import CREATOR, Actor, acting
from backend.cli.amounts import dollars, parse_dollars, price
from backend.cli.output import AsJson, echo, note_if_empty, print_json
from backend.cli.payments import say_voucher
from backend.cli.registration import (
    DEFAULT_SHARES,
    AcceptCopy,
    Name,
    Prices,
    Shares,
    parse_listing,
    register_published,
)
from backend.client.waiting import CONFIRMED_SECONDS, POLL_SECONDS, wait_through_outages
from backend.domain.errors import Forbidden, InvalidInput
from backend.domain.money import AMOUNT, PRICE, in_dollars

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backend.client.api import ApiClient

JOBS = "/v1/fine_tuning/jobs"
ESTIMATE_SECONDS = 300
"""Before the API answers, it tokenises some thousand rows."""
ENDED = {"succeeded", "failed", "cancelled"}

Snapshot = Annotated[str, typer.Argument(help="Id of the snapshot to train on.")]
JobId = Annotated[str, typer.Argument(help="Id of the job, from `loraledger train list`.")]
Parent = Annotated[
    str,
    typer.Option(
        "--model",
        help="Base model to train, or adapter to continue from. Default: the first base that is trained.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--set", help="Hyperparameter of docs/training.md, as name=value; may be repeated."),
]

commands = typer.Typer(help="Train adapters on snapshots.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="train")


@commands.command()
@acting(CREATOR)
def estimate(
    snapshot: Snapshot,
    *,
    options: Options = None,
    model: Parent = "",
    actor: Actor,
    as_json: AsJson = False,
) -> None:
    """Estimate a job's steps, duration and cost without creating it."""
    with actor.connect() as client:
        body = _body(snapshot, model, options or ())
        found = client.request("POST", f"{JOBS}/estimate", json=body, timeout=ESTIMATE_SECONDS)
    if as_json:
        print_json(found)
    else:
        for line in _estimate_lines(found):
            echo(line)


@commands.command()
@acting(CREATOR)
def create(
    snapshot: Snapshot,
    *,
    options: Options = None,
    model: Parent = "",
    max_cost: Annotated[
        str | None,
        typer.Option(
            metavar="DOLLARS",
            help="Most that the job may cost, and that vouchers add to what the market states as spent, in "
            "dollars.",
        ),
    ] = None,
    actor: Actor,
) -> None:
    """Create a job. The most that it can cost is reserved on the wallet's channel until the job ends.

    If the balance suffices but neither voucher nor session key covers the reservation, the wallet signs a
    voucher.
    """
    from backend.client.payments import send_paid

    body = _body(snapshot, model, options or ())
    most = None if max_cost is None else parse_dollars(max_cost, "--max-cost")
    with actor.connect() as client:
        if most is not None:
            _refuse_dearer(client, body, most)
        job = send_paid(client, lambda: client.post(JOBS, body), most=most, say=say_voucher)
    echo(f"{job['id']} is {job['status']}; {_cost(job)}")


@commands.command("list")
@acting(CREATOR)
def list_jobs(*, actor: Actor, as_json: AsJson = False) -> None:
    """List the wallet's newest jobs with their costs."""
    with actor.connect() as client:
        found = client.get(JOBS, limit=100)["data"]
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no jobs; `loraledger train create` creates one")
    for job in found:
        echo(f"{job['id']} {job['status']}; {_cost(job)}")


@commands.command()
@acting(CREATOR)
def watch(job_id: JobId, *, actor: Actor) -> None:
    """Print a job's events until it ends. Exit code 1 if it does not succeed."""
    with actor.connect() as client:
        job = _follow(client, f"{JOBS}/{job_id}")
    echo(f"{job['id']} {job['status']}; {_cost(job)}")
    if job["status"] != "succeeded":
        raise typer.Exit(1)


@commands.command()
@acting(CREATOR)
def cancel(job_id: JobId, *, actor: Actor) -> None:
    """Cancel a job; nothing is charged for it."""
    with actor.connect() as client:
        job = client.post(f"{JOBS}/{job_id}/cancel")
    echo(f"{job['id']} is {job['status']}; {_cost(job)}")


@commands.command("register")
@acting(CREATOR)
def register_adapter(
    job_id: JobId,
    *,
    name: Name,
    prices: Prices,
    shares: Shares = DEFAULT_SHARES,
    accept_copy: AcceptCopy = False,
    accept_worse: Annotated[
        bool, typer.Option("--accept-worse", help="List it although it is no better than its base model.")
    ] = False,
    actor: Actor,
) -> None:
    """Show the screening report of a job's adapter, and sign its registration."""
    listing = parse_listing(name, prices, shares)
    accepted = {"accepts_copy": accept_copy, "accepts_worse": accept_worse}
    with actor.connect() as client:
        register_published(client, f"{JOBS}/{job_id}", listing, **accepted)


def _refuse_dearer(client: ApiClient, body: Mapping[str, Any], most: int) -> None:
    """A session key may cover a job without another signature, so the cost is compared before its creation.

    Errors: `Forbidden`.
    """
    found = client.request("POST", f"{JOBS}/estimate", json=body, timeout=ESTIMATE_SECONDS)
    if AMOUNT.read(found["max_charge"]) > most:
        raise Forbidden(
            f"the job may cost {dollars(found['max_charge'])}, more than {in_dollars(most)}; not created",
            param="max-cost",
        )


def _body(snapshot: str, model: str, options: Sequence[str]) -> dict[str, Any]:
    """Build the request body of a job. Errors: `InvalidInput` for an option that is not name=value."""
    hyperparameters = {}
    for option in options:
        name, separator, value = option.partition("=")
        if not separator or name in hyperparameters:
            raise InvalidInput(f"--set takes name=value, each name once, not {option!r}", param="set")
        hyperparameters[name] = _parse_value(value)
    body: dict[str, Any] = {"training_file": snapshot, "hyperparameters": hyperparameters}
    return body | ({"model": model} if model else {})


def _parse_value(value: str) -> Any:
    """Parse a number, boolean or list as JSON; anything else is a string."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _follow(client: ApiClient, path: str) -> dict[str, Any]:
    """Print events until the job ends; return it. Only the first request fails if the market is away."""
    from time import sleep

    job: dict[str, Any] = client.get(path)
    after = 0
    while True:
        page = _ask(client, f"{path}/events", after=after, limit=500)
        for event in page["data"]:
            after = event["seq"]
            echo(event["message"])
        if not page["has_more"]:
            if job["status"] in ENDED:
                return job
            sleep(POLL_SECONDS)
        job = _ask(client, path)


def _ask(client: ApiClient, path: str, **params: Any) -> dict[str, Any]:
    """Read what the market shows of a job, which is trained all the same while the market does not answer."""
    return wait_through_outages(lambda: client.get(path, **params), "the market to answer", CONFIRMED_SECONDS)


def _estimate_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['num_train_rows']:,} rows to train on, {found['num_eval_rows']:,} not trained"
    yield f"{found['num_left_out']:,} rows left out: no answer within max_length"
    yield f"{found['num_steps']:,} steps, {found['num_trained_tokens']:,} tokens trained"
    if found["seconds"] is not None:
        yield f"about {found['seconds']:,} seconds"
    if not PRICE.read(found["price"]):
        yield "training is free here"
        return
    charged = f"{found['num_charged_tokens']:,} tokens"
    if found["num_charged_tokens"] > found["num_tokens"]:
        charged += " (at least one epoch is charged)"
    yield f"about {dollars(found['charge'])} for {charged}, at {price(found['price'])}"
    yield f"reserves {dollars(found['max_charge'])} on the channel until the job ends"


def _cost(job: Mapping[str, Any]) -> str:
    payment = job["payment"]
    if payment is None:
        return "free"
    if payment["charge"] is not None:
        charge = dollars(payment["charge"])
        return f"{job['trained_tokens']:,} tokens, {charge}, receipt {payment['receipt_id']}"
    if job["status"] in ENDED:
        return "nothing was charged"
    return f"at most {dollars(payment['max_charge'])}"
