"""`loraledger train`: fine-tuning jobs of the wallet, what they cost, how they get on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.client import POLL_SECONDS
from backend.cli.pay import post_paid
from backend.cli.session import AsJson, User, open_market, show
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backend.cli.client import Market

CREATOR = 6
JOBS = "/v1/fine_tuning/jobs"
ESTIMATE_SECONDS = 300
"""Some thousand rows are tokenised before the answer comes."""
OVER = {"succeeded", "failed", "cancelled"}

Snapshot = Annotated[str, typer.Argument(help="Id of the snapshot to train on.")]
JobId = Annotated[str, typer.Argument(help="The job, as `loraledger train list` names it.")]
Parent = Annotated[str, typer.Option("--model", help="An adapter to go on from; left out: the base model.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--set", help="One of the options of docs/training.md, as name=value; may be repeated."),
]

commands = typer.Typer(help="Train adapters on snapshots.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="train")


@commands.command()
def estimate(
    snapshot: Snapshot,
    *,
    options: Options = None,
    model: Parent = "",
    user: User = CREATOR,
    as_json: AsJson = False,
) -> None:
    """Say what a job would take and cost, and make none."""
    with open_market(user) as market:
        body = _body(snapshot, model, options or ())
        found = market.request("POST", f"{JOBS}/estimate", json=body, timeout=ESTIMATE_SECONDS)
    if as_json:
        show(found)
    else:
        typer.echo("\n".join(_estimate_lines(found)))


@commands.command()
def create(snapshot: Snapshot, *, options: Options = None, model: Parent = "", user: User = CREATOR) -> None:
    """Make a job; the most that it can cost is kept on the wallet's channel until it is over.

    Where balance suffices and no voucher and no session key reach so far, the wallet signs a voucher.
    """
    with open_market(user) as market:
        job = post_paid(market, JOBS, _body(snapshot, model, options or ()))
    typer.echo(f"{job['id']} is {job['status']}; {_cost(job)}")


@commands.command("list")
def list_jobs(*, user: User = CREATOR, as_json: AsJson = False) -> None:
    """The wallet's newest jobs, with what they cost."""
    with open_market(user) as market:
        found = market.get(JOBS, limit=100)["data"]
    if as_json:
        show(found)
        return
    for job in found:
        typer.echo(f"{job['id']} {job['status']}; {_cost(job)}")


@commands.command()
def watch(job_id: JobId, *, user: User = CREATOR) -> None:
    """Follow a job to its end; exit code 1 if it did not succeed."""
    with open_market(user) as market:
        for event in _events(market, job_id):
            typer.echo(event["message"])
        job = market.get(f"{JOBS}/{job_id}")
    typer.echo(f"{job['id']} {job['status']}; {_cost(job)}")
    if job["status"] != "succeeded":
        raise typer.Exit(1)


@commands.command()
def cancel(job_id: JobId, *, user: User = CREATOR) -> None:
    """Stop a job; it then costs nothing."""
    with open_market(user) as market:
        job = market.post(f"{JOBS}/{job_id}/cancel")
    typer.echo(f"{job['id']} is {job['status']}; {_cost(job)}")


def _body(snapshot: str, model: str, options: Sequence[str]) -> dict[str, Any]:
    """Errors: `InvalidInput` for what is not name=value."""
    given = {}
    for option in options:
        name, separator, value = option.partition("=")
        if not separator or name in given:
            raise InvalidInput(f"--set takes name=value, each name once, not {option!r}", param="set")
        given[name] = _parsed(value)
    body: dict[str, Any] = {"training_file": snapshot, "hyperparameters": given}
    return body | ({"model": model} if model else {})


def _parsed(value: str) -> Any:
    """Numbers, true and false, and lists as in JSON; all else is a word."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _events(market: Market, job_id: str) -> Iterator[dict[str, Any]]:
    """As they come, until the job is over."""
    from time import sleep

    after = 0
    while True:
        is_over = market.get(f"{JOBS}/{job_id}")["status"] in OVER
        page = market.get(f"{JOBS}/{job_id}/events", after=after, limit=500)
        for event in page["data"]:
            after = event["seq"]
            yield event
        if is_over and not page["has_more"]:
            return
        if not page["has_more"]:
            sleep(POLL_SECONDS)


def _estimate_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['num_train_rows']:,} rows to train on, {found['num_eval_rows']:,} held out"
    yield f"{found['num_left_out']:,} without an answer within max_length are left out"
    yield f"{found['num_steps']:,} steps, {found['num_learnt_tokens']:,} tokens trained"
    if found["seconds"] is not None:
        yield f"about {found['seconds']:,} seconds"
    if not found["price"]:
        yield "training is free here"
        return
    yield f"about {int(found['charge']):,} micro-units, at {found['price']:,} token units per million tokens"
    yield f"{int(found['max_charge']):,} micro-units are kept on the channel until the job is over"


def _cost(job: Mapping[str, Any]) -> str:
    payment = job["payment"]
    if payment is None:
        return "free"
    if payment["charge"] is not None:
        charge = int(payment["charge"])
        return f"{job['trained_tokens']:,} tokens, {charge:,} micro-units, receipt {payment['receipt_id']}"
    if job["status"] in OVER:
        return "nothing was charged"
    return f"at most {int(payment['max_charge']):,} micro-units"
