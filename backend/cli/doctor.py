"""`loraledger doctor`: whether the parts of this installation answer, and what to do where one does not."""

from __future__ import annotations

import typer

from backend.cli.session import AsJson, open_installation, show


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(*, as_json: AsJson = False) -> None:
    """Look at disk, database, chain, indexer and engine of this home, and at what its operator has on the
    chain: stake, receipt key, record of the base model. Exit code 1 if one is at fault.
    """
    from backend.installation.readiness import OPERATOR_PARTS, PARTS, faults

    parts = (*PARTS, *OPERATOR_PARTS)
    with open_installation() as installation:
        found = faults(installation, parts)
    if as_json:
        show(found)
    else:
        for part in parts:
            typer.echo(f"{part.name:9} {found.get(part.name, 'well')}")
    if found:
        raise typer.Exit(1)
