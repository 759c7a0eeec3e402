"""`loraledger adapter`: publish and register imported adapters; list and show any adapter."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.actor import CREATOR, Actor, acting
from backend.cli.amounts import detail
from backend.cli.output import AsJson, echo, note_if_empty, print_json
from backend.cli.progress import transfer_with_progress
from backend.cli.registration import (
    DEFAULT_SHARES,
    AcceptCopy,
    Name,
    Prices,
    Shares,
    parse_listing,
    register_published,
)
from backend.client.waiting import wait_through_outages
from backend.domain.adapter_files import CONFIG_FILE, MAX_BYTES
from backend.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backend.client.api import ApiClient
    from backend.client.hub import HubAdapter

ON_HUB = "hf:"
PUBLISH_SECONDS = 3600
"""The comparison may have to fetch other operators' versions first."""
Source = Annotated[
    str,
    typer.Argument(help="Folder of the adapter, as saved by PEFT, or `hf:owner/name@revision` of a hub."),
]
AdapterId = Annotated[str, typer.Argument(help="Id printed by `loraledger adapter publish`.")]
Registered = Annotated[str, typer.Argument(help="`owner/name`, version id or adapter digest.")]
commands = typer.Typer(
    help="Publish adapters trained elsewhere; list, show and fetch adapters.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="adapter")


@commands.command()
@acting(CREATOR)
def publish(
    source: Source,
    *,
    licence: Annotated[
        str, typer.Option(help="SPDX expression, such as Apache-2.0. Default: what the hub's card states.")
    ] = "",
    model: Annotated[
        str,
        typer.Option(help="Base model that it is for. Default: the one that its configuration names."),
    ] = "",
    description: Annotated[str, typer.Option(help="What it is for; goes into its card.")] = "",
    tag: Annotated[
        list[str] | None, typer.Option(help="Tag of its card; may be repeated. Default: the hub's.")
    ] = None,
    hub: Annotated[
        str, typer.Option("--hub", envvar="HF_ENDPOINT", help="URL of the hub.")
    ] = "https://huggingface.co",
    actor: Actor,
) -> None:
    """Upload an adapter to be inspected, compared and published. Exit code 1 if it is refused.

    Only adapter_config.json and adapter_model.safetensors are uploaded. A branch or tag of a hub is resolved
    to a commit, which is shown and asked for.
    """
    about: dict[str, Any] = {"description": description, "tags": tag or []}
    with tempfile.TemporaryDirectory() as scratch:
        if source.startswith(ON_HUB):
            found = _find_on_hub(actor, source, hub)
            about |= {"source": str(found), "tags": tag or found.tags}
            about["licence"] = found.agreed_licence(licence)
            with actor.connect() as client:
                bases = _bases(client)
                _download(hub, found, Path(scratch), [model] if model else bases)
                done = _publish(client, Path(scratch), about | _base(Path(scratch), model, bases))
        else:
            folder = _checked(Path(source), licence)
            with actor.connect() as client:
                base = _base(folder, model, _bases(client))
                done = _publish(client, folder, about | base | {"licence": licence})
    for line in _lines(done):
        echo(line)
    if done["status"] != "succeeded":
        raise typer.Exit(1)


@commands.command()
@acting(CREATOR)
def export(
    adapter: Registered,
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not exist, or be empty.")],
    *,
    actor: Actor,
) -> None:
    """Write an adapter as a folder that model hubs take: its two files, and a model card with its lineage.

    The files are verified against the version's record and digest.
    """
    from backend.client.adapter_export import export_adapter

    with actor.connect() as client:
        done = export_adapter(client, adapter, folder)
    echo(f"version {done.version}, digest {done.digest}, published as {done.cid}: written to {folder}")


@commands.command("register")
@acting(CREATOR)
def register_adapter(
    adapter_id: AdapterId,
    *,
    name: Name,
    prices: Prices,
    shares: Shares = DEFAULT_SHARES,
    accept_copy: AcceptCopy = False,
    actor: Actor,
) -> None:
    """Show the screening report of a published adapter, and sign its registration."""
    listing = parse_listing(name, prices, shares)
    with actor.connect() as client:
        register_published(client, f"/v1/adapters/{adapter_id}", listing, accepts_copy=accept_copy)


@commands.command()
@acting(CREATOR)
def status(
    adapter_id: Annotated[str, typer.Argument(help="Id of one adapter. Default: all.")] = "",
    *,
    actor: Actor,
    as_json: AsJson = False,
) -> None:
    """Show the publication status of this wallet's adapters."""
    with actor.connect() as client:
        found = [client.get(f"/v1/adapters/{adapter_id}")] if adapter_id else client.list_all("/v1/adapters")
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no adapters published by this wallet; `loraledger adapter publish` imports one")
    for adapter in found:
        for line in _lines(adapter):
            echo(line)


@commands.command("list")
@acting(CREATOR)
def list_adapters(*, actor: Actor, as_json: AsJson = False) -> None:
    """List the newest version of each adapter served here."""
    with actor.browse() as client:
        found = [model for model in client.get("/v1/models")["data"] if model["digest"] is not None]
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no adapters are served here yet")
    for model in found:
        echo(f"{model['id']}  {model['digest']}  {model['licence'] or 'licence unknown'}")


@commands.command("show")
@acting(CREATOR)
def show_adapter(adapter: Registered, *, actor: Actor, as_json: AsJson = False) -> None:
    """Show the registered record of an adapter version, its lineage, measurements and card."""
    with actor.browse() as client:
        found = client.get(f"/v1/models/{adapter}")
    if as_json:
        print_json(found)
        return
    text = ((found.get("card") or {}).pop("text", "") or "").splitlines()
    for name, value in found.items():
        echo(f"{name}: {detail(value)}")
    for line in text:
        echo(f"  {line}")


def _find_on_hub(actor: Actor, source: str, endpoint: str) -> HubAdapter:
    """The adapter at a commit, which is shown, and asked for unless it was named."""
    from backend.client.hub import Hub, HubReference

    reference = HubReference.parse(source)
    with Hub(endpoint, os.environ.get("HF_TOKEN", "")) as hub:
        found = hub.find(reference)
    echo(f"{found}: {found.num_bytes:,} bytes, licence {found.licence or 'not stated'}")
    if not reference.is_pinned:
        actor.confirm(f"Publish this commit of {reference.revision}?")
    return found


def _download(endpoint: str, found: HubAdapter, folder: Path, bases: Sequence[str]) -> None:
    from backend.client.hub import Hub

    with Hub(endpoint, os.environ.get("HF_TOKEN", "")) as hub:
        hub.download(found, folder, bases)


def _bases(client: ApiClient) -> list[str]:
    """Names of the base models that the market's operator serves."""
    return [base["name"] for base in client.get("/v1/operator")["bases"]]


def _base(folder: Path, model: str, bases: Sequence[str]) -> dict[str, str]:
    """The field `model` of an import: the one asked for, or the served one that the configuration names."""
    from backend.client.hub import matching_base, stated_base

    try:
        named = model or matching_base(stated_base((folder / CONFIG_FILE).read_bytes()), bases)
    except ValueError:
        named = None  # the market says what is wrong with it
    return {"model": named} if named else {}


def _checked(folder: Path, licence: str) -> Path:
    if not licence:
        raise InvalidInput("state the adapter's licence with --licence", param="licence")
    for name in MAX_BYTES:
        if not (folder / name).is_file():
            raise NotFound(f"{folder} has no {name}: name a folder that PEFT saved an adapter in", param=name)
    return folder


def _publish(client: ApiClient, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Upload the folder's two files, and follow their publication to its end."""
    skipped = sorted(path.name for path in folder.iterdir() if path.name not in MAX_BYTES)
    files = {name: transfer_with_progress(client, folder / name) for name in MAX_BYTES}
    adapter = client.post("/v1/adapters", {**about, "files": files})
    not_sent = f"; not uploaded: {', '.join(skipped)}" if skipped else ""
    echo(f"{adapter['id']} is {adapter['status']}{not_sent}")
    return _follow(client, adapter["id"])


def _follow(client: ApiClient, adapter_id: str) -> dict[str, Any]:
    """Print events until the publication has ended; return the adapter."""
    path, num_shown = f"/v1/adapters/{adapter_id}", 0

    def finished() -> dict[str, Any] | None:
        nonlocal num_shown
        adapter: dict[str, Any] = client.get(path)
        events = client.list_all(f"{path}/events")
        for event in events[num_shown:]:
            if event["kind"] in {"screening", "retry", "working"}:
                echo(event["message"])
        num_shown = len(events)
        return adapter if adapter["finished_at"] is not None else None

    try:
        return wait_through_outages(finished, f"{adapter_id} to be published", PUBLISH_SECONDS)
    except KeyboardInterrupt:
        echo(f"publication continues; follow it: `loraledger adapter status {adapter_id}`", err=True)
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
