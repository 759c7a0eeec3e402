"""`loraledger doctor`: check the parts of this installation and print remedies."""

from __future__ import annotations

import typer

from backend.cli.operator.session import open_installation
from backend.cli.output import AsJson, echo, print_json


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(*, as_json: AsJson = False) -> None:
    """Check disk, database, chain, indexer and engine of this home, and the operator's stake, receipt key and
    base model record on the chain. Exit code 1 if one is faulty.
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
    if found:
        raise typer.Exit(1)
