"""`loraledger doctor`: check the parts of this installation and print remedies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from backend.cli.operator.session import open_installation
from backend.cli.output import AsJson, echo, print_json
from telemetry import metrics

if TYPE_CHECKING:
    from pathlib import Path


def register(app: typer.Typer) -> None:
    app.command()(doctor)


PROCESSES = {
    "api": "serve",
    "indexer": "index",
    "sender": "send",
    "settler": "settle",
    "watch": "watch",
    "relay": "relay",
    "worker": "worker",
}
"""Name of its metrics -> command."""


def doctor(*, as_json: AsJson = False) -> None:
    """Check disk, database, chain, indexer and engine of this home, and on the chain the operator's stake,
    receipt key and base model record and the coin for gas. Exit code 1 if one is faulty.

    It also says which processes of this home run. It does not judge that: others may run elsewhere.
    """
    from backend.installation.operator_readiness import OPERATOR_PARTS
    from backend.installation.readiness import PARTS, faults

    with open_installation() as installation:
        parts = faults(installation, PARTS) | faults(installation, OPERATOR_PARTS)
    found = {name: fault.text for name, fault in parts.items()}
    if as_json:
        print_json(found)
    else:
        for name in [*(part.name for part in PARTS), *(part.name for part in OPERATOR_PARTS)]:
            echo(f"{name:9} {found.get(name, 'ok')}")
        echo(f"{'processes':9} {_processes(installation.settings.metrics_folder)}")
    if found:
        raise typer.Exit(1)


def _processes(folder: Path) -> str:
    running = metrics.running(folder)
    here = [command for name, command in PROCESSES.items() if name in running]
    missing = [command for name, command in PROCESSES.items() if name not in running]
    lists = {"running here": here, "not running here": missing}
    return "; ".join(f"{label}: {', '.join(commands)}" for label, commands in lists.items() if commands)
