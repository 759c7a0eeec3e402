"""Adapters from the command line: those that were trained elsewhere published and registered, all of them
listed, shown and fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.client import until
from backend.cli.session import AsJson, User, open_installation, open_market, show
from backend.cli.transfers import transfer_shown
from backend.domain.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backend.cli.client import Market

CREATOR = 6
FILES = ("adapter_config.json", "adapter_model.safetensors")
PUBLISH_SECONDS = 3600
"""Versions of others may have to be fetched for the comparison."""
REGISTER_SECONDS = 120
Folder = Annotated[Path, typer.Argument(help="As PEFT saves it.", exists=True, file_okay=False)]
AdapterId = Annotated[str, typer.Argument(help="As `loraledger adapter publish` names it.")]
Registered = Annotated[str, typer.Argument(help="`owner/name`, version id or adapter digest.")]
commands = typer.Typer(
    help="Publish adapters that were trained elsewhere; list, show and fetch any.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="adapter")


@commands.command()
def publish(
    folder: Folder,
    *,
    licence: Annotated[str, typer.Option(help="SPDX expression, such as Apache-2.0.")],
    user: User = CREATOR,
) -> None:
    """Upload an adapter, have it inspected, compared and published; exit code 1 if it is refused.

    Of the folder adapter_config.json and adapter_model.safetensors are taken, and nothing else.
    """
    left = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    for name in FILES:
        if not (folder / name).is_file():
            raise NotFound(f"{folder} has no {name}: it is no adapter as PEFT saves one", param=name)
    with open_market(user) as market:
        files = {name: transfer_shown(market, folder / name) for name in FILES}
        adapter = market.post("/v1/adapters", {"licence": licence, "files": files})
        not_sent = f"; not sent: {', '.join(left)}" if left else ""
        typer.echo(f"{adapter['id']} is {adapter['status']}{not_sent}")
        done = _followed(market, adapter["id"])
    for line in _lines(done):
        typer.echo(line)
    if done["status"] != "succeeded":
        raise typer.Exit(1)


@commands.command("register")
def register_adapter(
    adapter_id: AdapterId,
    *,
    name: Annotated[str, typer.Option(help="What it is sold as: 1 to 32 of a-z, 0-9 and -.")],
    prices: Annotated[
        tuple[int, int], typer.Option(help="Token units per million prompt tokens, and completion tokens.")
    ],
    shares: Annotated[
        tuple[int, int], typer.Option(help="The operators' and your ppm; the rest is the treasury's.")
    ] = (200_000, 300_000),
    accept_copy: Annotated[
        bool, typer.Option("--accept-copy", help="List it although it is like a version of somebody else.")
    ] = False,
    is_agreed: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    user: User = CREATOR,
) -> None:
    """Show what the gate found, and sign the registration of a published adapter."""
    listing = {"name": name, "accepts_copy": accept_copy}
    listing |= dict(zip(("prompt_price", "completion_price"), prices, strict=True))
    listing |= dict(zip(("operator_ppm", "creator_ppm"), shares, strict=True))
    with open_market(user) as market:
        prepared = market.post(f"/v1/adapters/{adapter_id}/registration/prepare", listing)
        for line in _gate_lines(prepared["gate"]):
            typer.echo(line)
        if not is_agreed:
            typer.confirm("Sign and register it?", abort=True)
        market.wallet.send(prepared["transaction"])
        version = until(
            lambda: market.get(f"/v1/adapters/{adapter_id}")["version_id"],
            f"{name} to be registered",
            REGISTER_SECONDS,
        )
        typer.echo(f"{market.wallet.account}/{name} is version {version}")


@commands.command()
def status(
    adapter_id: Annotated[str, typer.Argument(help="One adapter; left out: all.")] = "",
    *,
    user: User = CREATOR,
    as_json: AsJson = False,
) -> None:
    """Say how far this wallet's adapters have come."""
    with open_market(user) as market:
        found = [market.get(f"/v1/adapters/{adapter_id}")] if adapter_id else market.all("/v1/adapters")
    if as_json:
        show(found)
        return
    for adapter in found:
        for line in _lines(adapter):
            typer.echo(line)


@commands.command("list")
def list_adapters(*, user: User = CREATOR, as_json: AsJson = False) -> None:
    """The newest version of each adapter that is served here."""
    with open_market(user) as market:
        found = [model for model in market.get("/v1/models")["data"] if model["digest"] is not None]
    if as_json:
        show(found)
        return
    for model in found:
        typer.echo(f"{model['id']}  {model['digest']}  {model['licence'] or 'licence unknown'}")


@commands.command("show")
def show_adapter(adapter: Registered, *, user: User = CREATOR, as_json: AsJson = False) -> None:
    """What is registered of an adapter's version."""
    with open_market(user) as market:
        found = market.get(f"/v1/models/{adapter}")
    if as_json:
        show(found)
        return
    for name, value in found.items():
        typer.echo(f"{name}: {', '.join(value) if isinstance(value, list) else value}")


@commands.command()
def pull(
    adapter: Registered,
    folder: Annotated[Path, typer.Argument(help="Where it is put; nothing may be there yet.")],
) -> None:
    """Fetch an adapter's folder, from here or from another operator's gateway, checked against its CID.

    The chain must be indexed in this home: `loraledger index`.
    """
    from backend.services.market.catalogue import adapter_record

    with open_installation() as installation:
        installation.prepare_database()  # whoever only fetches has run nothing else here
        record = adapter_record(installation.database.read, adapter)
        cid = installation.adapter_folders.fetch(record, folder)
    typer.echo(f"{cid} is in {folder}")


def _followed(market: Market, adapter_id: str) -> dict[str, Any]:
    """Once it is over; what happens meanwhile is shown."""
    path, num_shown = f"/v1/adapters/{adapter_id}", 0

    def over() -> dict[str, Any] | None:
        nonlocal num_shown
        adapter: dict[str, Any] = market.get(path)
        events = market.all(f"{path}/events")
        for event in events[num_shown:]:
            if event["kind"] in {"gate", "retry", "working"}:
                typer.echo(event["message"])
        num_shown = len(events)
        return adapter if adapter["finished_at"] is not None else None

    try:
        return until(over, f"{adapter_id} to be published", PUBLISH_SECONDS)
    except KeyboardInterrupt:
        typer.echo(f"it goes on without you: `loraledger adapter status {adapter_id}`", err=True)
        raise


def _lines(adapter: Mapping[str, Any]) -> Iterator[str]:
    version = "" if adapter["version_id"] is None else f", version {adapter['version_id']}"
    yield f"{adapter['id']} {adapter['status']}{version}"
    if adapter["metrics"]:
        base, own = (adapter["metrics"][f"general_loss_{model}"] for model in ("base", "adapter"))
        yield f"  loss on the general set: {base:.4f} without it, {own:.4f} with it"
    if adapter["cid"]:
        yield f"  published as {adapter['cid']}, digest {adapter['adapter_digest']}"
    if adapter["error"]:
        error = adapter["error"]
        yield f"  refused: {error['message']} [{error['details'].get('reason', error['code'])}]"


def _gate_lines(gate: Mapping[str, Any] | None) -> Iterator[str]:
    if gate is None:
        return
    risk, near = gate["risk"], gate["nearest"]
    yield (
        "no risk score: too few adapters are known"
        if risk is None
        else (f"risk score {risk['score']}/100, by {risk['by']}; a low one does not say that it is safe")
    )
    if near is not None:
        what = "a copy of" if near["is_copy"] else "the nearest version of others is"
        yield f"{what} {near['version_id']} by {near['creator']} (cosine {near['cosine']:.2f})"
    yield f"{gate['num_compared']} versions compared, {gate['num_unknown']} not within reach"
