"""`loraledger audit`: recomputes batches from the chain and the batches' public data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.session import AsJson, show
from backend.domain.errors import InvalidInput
from backend.domain.ids import Account
from backend.settings import load_settings

if TYPE_CHECKING:
    from backend.services.audit import Verdict


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    *,
    operator: Annotated[str, typer.Option(help="Whose batches; left out: this installation's own.")] = "",
    batch: Annotated[int, typer.Option(help="Show this batch only.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Recompute every batch and say whether every unit is right; exit code 1 if one is not."""
    from backend.bootstrap import Installation

    installation = Installation(load_settings())
    try:
        account = Account(operator.lower()) if operator else installation.operator.account
        verdicts = list(installation.auditor.audit(account))
    finally:
        installation.close()
    shown = [verdict for verdict in verdicts if batch in (0, verdict.header.number)]
    if batch and not shown:
        raise InvalidInput(f"{account} has no batch {batch} that can be audited", param="batch")
    if as_json:
        show([_as_json(verdict) for verdict in shown])
    else:
        for verdict in shown:
            typer.echo(_as_line(verdict))
        typer.echo(f"{len(shown)} batches of {account}")
    if not all(verdict.is_right for verdict in shown):
        raise typer.Exit(1)


def _as_json(verdict: Verdict) -> dict[str, object]:
    finding = None if verdict.finding is None else asdict(verdict.finding)
    header = {name: str(value) for name, value in asdict(verdict.header).items()}
    return {"is_right": verdict.is_right, "finding": finding, "header": header}


def _as_line(verdict: Verdict) -> str:
    header = verdict.header
    sums = f"{header.receipts_count} receipts, {header.entries_count} entries, {header.total:,} micro-units"
    if verdict.finding is None:
        return f"batch {header.number}: every unit is right ({sums})"
    return f"batch {header.number}: WRONG, {verdict.finding.message} ({sums})"
