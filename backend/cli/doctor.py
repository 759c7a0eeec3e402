"""`loraledger doctor`: check the parts of this installation and print remedies."""

from __future__ import annotations

import typer

from backend.cli.session import AsJson, open_installation, print_json


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(*, as_json: AsJson = False) -> None:
    """Check disk, database, chain, indexer and engine of this home, and the operator's stake, receipt key and
    base model record on the chain. Exit code 1 if one is faulty.
    """
    from backend.installation.readiness import OPERATOR_PARTS, PARTS, faults

    parts = (*PARTS, *OPERATOR_PARTS)
    with open_installation() as installation:
        found = faults(installation, parts)
    if as_json:
        print_json(found)
    else:
        for part in parts:
            typer.echo(f"{part.name:9} {found.get(part.name, 'ok')}")
    if found:
        raise typer.Exit(1)
