"""`loraledger keys`: manage API keys that spend from a wallet's channel."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.actor import PAYER, Actor, acting
from backend.cli.amounts import dollars, parse_dollars
from backend.cli.output import AsJson, echo, note_if_empty, print_json
from backend.domain.auth import Scope
from backend.domain.money import AMOUNT

Scopes = Annotated[
    list[Scope] | None, typer.Option(help="Scope that it grants; may be repeated. Default: all.")
]

commands = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="keys")


@commands.command()
@acting(PAYER)
def create(
    name: Annotated[str, typer.Argument(help="Name of the key.")] = "command line",
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="Model that it may ask; may be repeated. Default: all.")
    ] = None,
    scope: Scopes = None,
    spend_cap: Annotated[
        str | None,
        typer.Option(metavar="DOLLARS", help="Most that it may spend in its lifetime, in dollars."),
    ] = None,
    actor: Actor,
) -> None:
    """Create an API key that spends from the wallet's channel. Its secret cannot be shown again."""
    cap = None if spend_cap is None else AMOUNT.render(parse_dollars(spend_cap, "--spend-cap"))
    limits = {"models": model, "scopes": scope, "spend_cap": cap}
    body = {"name": name} | {limit: value for limit, value in limits.items() if value}
    with actor.connect() as client:
        echo(client.post("/v1/keys", body)["secret"])


@commands.command("list")
@acting(PAYER)
def list_keys(*, actor: Actor, as_json: AsJson = False) -> None:
    """List the wallet's keys, newest first."""
    with actor.connect() as client:
        keys = client.list_all("/v1/keys")
    if as_json:
        print_json(keys)
        return
    note_if_empty(keys, "no API keys; `loraledger keys create` creates one")
    for key in keys:
        state = "revoked" if key["revoked_at"] else "valid  "
        cap = "" if key["spend_cap"] is None else f" of {dollars(key['spend_cap'])}"
        models = ", ".join(key["models"] or ["all models"])
        spent = f"{dollars(key['spent'])}{cap} spent"
        echo(f"{key['id']}  {state}  {key['hint']}...  {key['name']}: {spent}; {models}")


@commands.command()
@acting(PAYER)
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, from `loraledger keys list`.")],
    *,
    actor: Actor,
) -> None:
    """Revoke a key; effective at once."""
    with actor.connect() as client:
        client.delete(f"/v1/keys/{key}")
    echo(f"{key} is revoked")
