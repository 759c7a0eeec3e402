"""`loraledger chat`: one question from the command line, paid for by a wallet."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from backend.cli.pay import PAYER
from backend.cli.session import AsJson, User, open_market, show
from backend.domain.errors import InvalidInput


def register(app: typer.Typer) -> None:
    app.command()(models)
    app.command()(chat)


def models(*, user: User = PAYER, as_json: AsJson = False) -> None:
    """List what can be asked, with its price."""
    with open_market(user) as market:
        found = market.get("/v1/models")["data"]
    if as_json:
        show(found)
        return
    for model in found:
        prices = f"{model['prompt_price']:,} and {model['completion_price']:,} units per million tokens"
        typer.echo(f"{model['id']}  {prices}{'' if model['is_active'] else '  (loaded when asked)'}")


def chat(
    model: Annotated[str, typer.Argument(help="As `loraledger models` lists them.")],
    text: Annotated[str, typer.Argument(help="What you ask.")],
    *,
    max_tokens: Annotated[int, typer.Option(help="Of the answer, at most.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.", min=0, max=2)] = 0.0,
    blend: Annotated[
        list[str] | None,
        typer.Option(help="An adapter that answers too, as model=weight, where MODEL is the base; repeated."),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Show it as it is written.")] = True,
    user: User = PAYER,
) -> None:
    """Ask a model; the answer goes to standard output, its cost and receipt to standard error."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_completion_tokens": max_tokens,
        "temperature": temperature,
    }
    if blend:
        asked["loraledger"] = {"blend": [_part(each) for each in blend]}
    with open_market(user) as market:
        if stream:
            last: dict[str, Any] = {}
            for last in market.events("/v1/chat/completions", asked | {"stream": True}):
                typer.echo("".join(c["delta"].get("content") or "" for c in last["choices"]), nl=False)
        else:
            last = market.post("/v1/chat/completions", asked)
            typer.echo(last["choices"][0]["message"]["content"], nl=False)
    bill = last["loraledger"]
    typer.echo()
    typer.echo(f"{int(bill['charge']):,} micro-units; receipt {bill['receipt_id']}", err=True)


def _part(text: str) -> dict[str, Any]:
    """Errors: `InvalidInput` for what is not model=weight."""
    name, _, written = text.rpartition("=")
    try:
        weight = float(written)
    except ValueError:
        weight = math.nan
    if not name or not math.isfinite(weight):
        raise InvalidInput(f"--blend takes model=weight, not {text!r}", param="blend")
    return {"model": name, "weight": weight}
