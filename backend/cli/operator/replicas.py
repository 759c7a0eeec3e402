"""`loraledger replicas`: list the engines of an installation, and take one out of service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.operator.session import open_installation
from backend.cli.output import AsJson, print_json
from backend.domain.errors import Unavailable
from backend.domain.texts import counted

if TYPE_CHECKING:
    from backend.installation.engines import Engines
    from backend.installation.installation import Installation

PROBE_SECONDS = 5.0

Name = Annotated[str, typer.Argument(help="Name of the replica, as `loraledger replicas show` lists it.")]

replicas = typer.Typer(help="Engines that serve a base model together.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(replicas, name="replicas")


@replicas.command()
def show(*, as_json: AsJson = False) -> None:
    """List the replicas, with their base models if there are several: up or down, drained, and how many
    requests they answer or have in their queues.
    """
    with open_installation() as installation:
        found, labels = asyncio.run(_states(installation)), installation.engines.labels()
    if as_json:
        print_json(found)
        return
    has_several = len(set(labels.values())) > 1
    for name, state in found.items():
        typer.echo(f"{name:30} {f'{labels[name]:30} ' if has_several else ''}{state}")


@replicas.command()
def drain(name: Name) -> None:
    """Send a replica no new requests. Its answers go on; `loraledger replicas show` says when it is idle."""
    with open_installation() as installation:
        installation.engines.drain(name)


@replicas.command()
def resume(name: Name) -> None:
    """Send a drained replica requests again."""
    with open_installation() as installation:
        installation.engines.resume(name)


async def _states(installation: Installation) -> dict[str, str]:
    engines = installation.engines
    states = await asyncio.gather(*(_state(engines, name) for name in engines.replicas))
    drained = engines.drained()
    return {
        name: ", ".join([state, *(["drained"] if name in drained else []), *load])
        for name, (state, *load) in zip(engines.replicas, states, strict=True)
    }


async def _state(engines: Engines, name: str) -> list[str]:
    """Up or down, and its load as far as its metrics say it."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await engines.replicas[name].state()
    except (Unavailable, TimeoutError):
        return ["down"]
    try:
        num_requests = await engines.num_requests(name, PROBE_SECONDS)
    except Unavailable:
        num_requests = None
    if num_requests is None:
        return ["up"]
    return ["up", "idle" if not num_requests else counted(num_requests, "request")]
