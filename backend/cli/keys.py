"""`loraledger keys`: API keys that spend a wallet's channel."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.pay import PAYER
from backend.cli.session import AsJson, User, open_market, show
from backend.ports.auth import Scope

Scopes = Annotated[list[Scope] | None, typer.Option(help="What it is for; left out: all.")]

commands = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="keys")


@commands.command()
def create(
    name: Annotated[str, typer.Argument(help="What you will know it by.")] = "command line",
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="That it may ask; may be repeated. Left out: all.")
    ] = None,
    scope: Scopes = None,
    spend_cap: Annotated[int | None, typer.Option(help="In micro-units, over its whole life.", min=0)] = None,
    user: User = PAYER,
) -> None:
    """Make an API key that spends the wallet's channel; it is shown this once."""
    limits = {"models": model, "scopes": scope, "spend_cap": None if spend_cap is None else str(spend_cap)}
    given = {limit: value for limit, value in limits.items() if value}
    with open_market(user) as market:
        typer.echo(market.post("/v1/keys", {"name": name, **given})["secret"])


@commands.command("list")
def list_keys(*, user: User = PAYER, as_json: AsJson = False) -> None:
    """The wallet's keys, newest first."""
    with open_market(user) as market:
        keys = market.all("/v1/keys")
    if as_json:
        show(keys)
        return
    for key in keys:
        state = "revoked" if key["revoked_at"] else "valid  "
        cap = "" if key["spend_cap"] is None else f" of {int(key['spend_cap']):,}"
        models = ", ".join(key["models"] or ["all models"])
        spent = f"{int(key['spent']):,}{cap} micro-units spent"
        typer.echo(f"{key['id']}  {state}  {key['hint']}...  {key['name']}: {spent}; {models}")


@commands.command()
def revoke(key: Annotated[str, typer.Argument(help="Its id, as listed.")], *, user: User = PAYER) -> None:
    """End a key at once."""
    with open_market(user) as market:
        market.delete(f"/v1/keys/{key}")
    typer.echo(f"{key} is revoked")
