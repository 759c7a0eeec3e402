"""`loraledger webhook`: URLs that a market calls when something happens to a wallet's account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.actor import PAYER, Actor, acting
from backend.cli.amounts import dollars, parse_dollars
from backend.cli.output import AsJson, echo, in_utc, note_if_empty, print_json
from backend.domain.money import AMOUNT
from backend.domain.texts import counted
from backend.domain.webhooks import EventType

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH = "/v1/webhook_endpoints"
Endpoint = Annotated[str, typer.Argument(help="Id of the endpoint, from `loraledger webhook list`.")]

commands = typer.Typer(help="Register, test and inspect webhook endpoints.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="webhook")


@commands.command()
@acting(PAYER)
def add(
    url: Annotated[str, typer.Argument(help="URL to call: https, on the public Internet.")],
    *,
    event: Annotated[
        list[EventType] | None, typer.Option(help="Event to send; may be repeated. Default: all.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the endpoint.")] = "command line",
    low_balance: Annotated[
        str | None,
        typer.Option(metavar="DOLLARS", help="Send `channel.balance_low` when less than this is available."),
    ] = None,
    min_earnings: Annotated[
        str | None,
        typer.Option(
            metavar="DOLLARS", help="Send `earnings.claimable` each time this much became claimable."
        ),
    ] = None,
    actor: Actor,
) -> None:
    """Register a webhook endpoint. Its signing secret cannot be shown again."""
    body: dict[str, Any] = {"url": url, "name": name, "event_types": list(event or EventType)}
    for option, text in (("low_balance", low_balance), ("min_earnings", min_earnings)):
        if text is not None:
            body[option] = AMOUNT.render(parse_dollars(text, f"--{option.replace('_', '-')}"))
    with actor.connect() as client:
        _show_secret(client.post(PATH, body))


@commands.command("list")
@acting(PAYER)
def list_endpoints(*, actor: Actor, as_json: AsJson = False) -> None:
    """List the wallet's webhook endpoints, newest first."""
    with actor.connect() as client:
        found = client.list_all(PATH)
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no webhook endpoints; `loraledger webhook add` registers one")
    for endpoint in found:
        state = "enabled " if endpoint["is_enabled"] else "disabled"
        echo(f"{endpoint['id']}  {state}  {endpoint['url']}  {endpoint['name']}")
        echo("  " + ", ".join(_event(name, endpoint) for name in endpoint["event_types"]))
        if endpoint["disabled_reason"]:
            echo(f"  {endpoint['disabled_reason']}")


@commands.command("test")
@acting(PAYER)
def send_sample(
    endpoint: Endpoint,
    *,
    event: Annotated[EventType, typer.Option(help="Event to send.")] = EventType.JOB_SUCCEEDED,
    actor: Actor,
) -> None:
    """Send a signed sample event now, and show what the endpoint answers."""
    with actor.connect() as client:
        found = client.post(f"{PATH}/{endpoint}/test", {"event_type": event})
    echo(found["error"] or f"The endpoint answered with status {found['status_code']}.")
    if found["error"]:
        raise typer.Exit(1)


@commands.command()
@acting(PAYER)
def deliveries(endpoint: Endpoint, *, actor: Actor, as_json: AsJson = False) -> None:
    """List an endpoint's deliveries of the last 30 days, newest first."""
    with actor.connect() as client:
        found = client.list_all(f"{PATH}/{endpoint}/deliveries")
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no deliveries in the last 30 days")
    for each in found:
        echo(f"{each['id']}  {in_utc(each['created_at'])}  {each['event_type']}  {_progress(each)}")
        if each["error"]:
            echo(f"  {each['error']}")


@commands.command()
@acting(PAYER)
def rotate(
    endpoint: Endpoint,
    *,
    keeps_old: Annotated[
        bool, typer.Option("--keep-old", help="Sign with the old secret too for 24 hours.")
    ] = False,
    actor: Actor,
) -> None:
    """Replace an endpoint's signing secret. The new one cannot be shown again."""
    with actor.connect() as client:
        body = {"keep_old_secret_active_for_24_hours": keeps_old}
        _show_secret(client.post(f"{PATH}/{endpoint}/rotate_secret", body))


@commands.command()
@acting(PAYER)
def enable(endpoint: Endpoint, *, actor: Actor) -> None:
    """Enable an endpoint again. Events of the time in which it was disabled are not sent."""
    with actor.connect() as client:
        client.post(f"{PATH}/{endpoint}", {"is_enabled": True})
    echo(f"{endpoint} is enabled")


@commands.command()
@acting(PAYER)
def remove(endpoint: Endpoint, *, actor: Actor) -> None:
    """Delete an endpoint; effective at once."""
    with actor.connect() as client:
        client.delete(f"{PATH}/{endpoint}")
    echo(f"{endpoint} is deleted")


def _show_secret(endpoint: Mapping[str, Any]) -> None:
    echo(f"{endpoint['id']} calls {endpoint['url']}", err=True)
    echo(endpoint["signing_secret"])


def _event(name: str, endpoint: Mapping[str, Any]) -> str:
    """An event type, with the amount that it waits for."""
    if name == EventType.BALANCE_LOW:
        return f"{name} below {dollars(endpoint['low_balance'])}"
    if name == EventType.EARNINGS_CLAIMABLE:
        return f"{name} from {dollars(endpoint['min_earnings'])}"
    return name


def _progress(delivery: Mapping[str, Any]) -> str:
    number, next_at = delivery["num_attempts"], delivery["next_attempt_at"]
    attempts = f"{delivery['state']} after {counted(number, 'attempt')}"
    return f"{attempts}, next at {in_utc(next_at)}" if next_at else attempts
