"""`loraledger replicas`: list the engines of an installation, and take one out of service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.operator.session import open_installation
from backend.cli.output import AsJson, print_json
from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from backend.installation.installation import Installation
    from backend.ports.engine import Engine

PROBE_SECONDS = 5.0

Name = Annotated[str, typer.Argument(help="Name of the replica, as `loraledger replicas show` lists it.")]

replicas = typer.Typer(help="Engines that serve a base model together.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(replicas, name="replicas")


@replicas.command()
def show(*, as_json: AsJson = False) -> None:
    """List the replicas, with their base models if there are several: up, down or drained."""
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
    """Send a replica no new requests. Its answers go on; `show` and its log say when it is idle."""
    with open_installation() as installation:
        installation.engines.drain(name)


@replicas.command()
def resume(name: Name) -> None:
    """Send a drained replica requests again."""
    with open_installation() as installation:
        installation.engines.resume(name)


async def _states(installation: Installation) -> dict[str, str]:
    engines = installation.engines
    states = await asyncio.gather(*map(_state, engines.replicas.values()))
    drained = engines.drained()
    pairs = zip(engines.replicas, states, strict=True)
    return {name: f"{state}, drained" if name in drained else state for name, state in pairs}


async def _state(engine: Engine) -> str:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await engine.state()
    except (Unavailable, TimeoutError):
        return "down"
    return "up"
