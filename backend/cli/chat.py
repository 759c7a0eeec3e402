"""`loraledger models` and `loraledger chat`: find models and ask one, paid for by a test wallet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.actor import PAYER, Actor, acting
from backend.cli.amounts import dollars, parse_dollars, parse_price, prices
from backend.cli.output import AsJson, echo, echo_part, note_if_empty, print_json
from backend.cli.payments import say_voucher
from backend.client.errors import Answer
from backend.domain.catalogue import Sort
from backend.domain.errors import DomainError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backend.client.api import ApiClient

PATH = "/v1/chat/completions"


def register(app: typer.Typer) -> None:
    app.command()(models)
    app.command()(chat)


@acting(PAYER)
def models(
    words: Annotated[list[str] | None, typer.Argument(help="Words in the name or the card.")] = None,
    *,
    licence: Annotated[
        str, typer.Option(help="SPDX expression; models whose licences can be met with those it names.")
    ] = "",
    max_price: Annotated[
        str, typer.Option(help="Most dollars per million tokens, of the prompt and of the completion.")
    ] = "",
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Whether the engine has loaded the adapter.")
    ] = None,
    base: Annotated[str, typer.Option(help="Name or digest of the base model.")] = "",
    sort: Annotated[Sort | None, typer.Option(help="Default: by registration.")] = None,
    actor: Actor,
    as_json: AsJson = False,
) -> None:
    """List or search the models that can be asked, with their prices, licences and measured quality."""
    if max_price:
        parse_price(max_price, "--max-price")
    asked = {"licence": licence, "max_price": max_price, "base": base, "q": " ".join(words or ())}
    params: dict[str, Any] = {name: value for name, value in asked.items() if value}
    params |= {} if sort is None else {"sort": sort.value}
    params |= {} if active is None else {"active": active}
    with actor.browse() as client:
        found = client.list_all("/v1/models", **params)
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no model matches")
    for model in found:
        for line in _lines(model):
            echo(line)


def _lines(model: Mapping[str, Any]) -> Iterator[str]:
    note = "" if model["is_active"] else "  (loaded on the first request)"
    yield f"{model['id']}  {prices(model)}{note}"
    if model["parent"] is None:
        return
    facts = [model["licence"] or "licence unknown", f"{model['num_answers']} answers in 7 days"]
    if model["quality"] is not None:
        facts.append(f"loss {model['quality']:.4f} below the base model's")
    if model["agreement"] is not None:
        method, agreement = next(iter(model["agreement"]["by_method"].items()))
        facts.append(f"{method} agrees with gradients at {agreement:.2f}")
    yield f"  {', '.join(facts)}"
    if model["card"] and model["card"]["summary"]:
        yield f"  {model['card']['summary']}"


@acting(PAYER)
def chat(
    model: Annotated[str, typer.Argument(help="Id of a model, from `loraledger models`.")],
    text: Annotated[str, typer.Argument(help="The question.")],
    *,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of the answer.", min=1)] = 256,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature; 0 always selects the likeliest token.", min=0, max=2)
    ] = 0.0,
    blend: Annotated[
        list[str] | None,
        typer.Option(
            help="Adapter to blend in, as model=weight; MODEL must be the base model. May be repeated."
        ),
    ] = None,
    max_cost: Annotated[
        str,
        typer.Option(
            metavar="DOLLARS",
            help="Most that vouchers for the answer add to what the market states as spent, in dollars.",
        ),
    ] = "0.1",
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print the answer as it is generated.")
    ] = True,
    actor: Actor,
) -> None:
    """Ask a model. The answer goes to standard output, its cost and receipt id to standard error.

    If the balance suffices but neither voucher nor session key covers the most that the answer can cost, the
    wallet signs a voucher for it.
    """
    from backend.client.payments import send_paid

    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_completion_tokens": max_tokens,
        "temperature": temperature,
    }
    if blend:
        request["loraledger"] = {"blend": [_parse_blend(each) for each in blend]}
    ask = _print_stream if stream else _print_answer
    most = parse_dollars(max_cost, "--max-cost")
    with actor.connect() as client:
        last = send_paid(client, lambda: ask(client, request), most=most, say=say_voucher)
    _print_bill(last["loraledger"])


def _print_stream(client: ApiClient, request: dict[str, Any]) -> dict[str, Any]:
    """Print an answer as it is generated; returns the last chunk, which has the bill. An error may follow it:
    the bill is then printed here.
    """
    last: dict[str, Any] = Answer()
    try:
        for last in client.stream(PATH, request | {"stream": True}):
            echo_part("".join(c["delta"].get("content") or "" for c in last["choices"]))
    except DomainError:
        if "loraledger" in last:
            _print_bill(last["loraledger"])
        raise
    return last


def _print_answer(client: ApiClient, request: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = client.post(PATH, request)
    echo_part(answer["choices"][0]["message"]["content"] or "")
    return answer


def _print_bill(bill: Mapping[str, Any]) -> None:
    echo()  # ends the answer's last line
    number = bill.get("receipt_id")
    receipt = f"receipt {number}" if number else f"charge {bill['charge_id']}, its receipt follows"
    echo(f"{dollars(bill['charge'])}; {receipt}", err=True)


def _parse_blend(text: str) -> dict[str, Any]:
    """Parse model=weight. Errors: `InvalidInput`."""
    name, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not name or not math.isfinite(weight):
        raise InvalidInput(f"--blend takes model=weight, not {text!r}", param="blend")
    return {"model": name, "weight": weight}
