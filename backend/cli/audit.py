"""`loraledger audit`: recomputes batches from the chain and the batches' public data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.session import AsJson, account, show
from backend.domain.disputes.witnesses import key_word
from backend.domain.errors import InvalidInput
from backend.domain.transactions import as_json as as_plain
from backend.settings import load_settings

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.services.audit.auditor import Verdict


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    *,
    operator: Annotated[str, typer.Option(help="Whose batches; left out: this installation's own.")] = "",
    is_all: Annotated[bool, typer.Option("--all", help="All operators' batches.")] = False,
    batch: Annotated[int, typer.Option(help="Show this batch only.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Recompute every batch and say whether every unit is right; exit code 1 if one is not.

    Of a wrong batch the first wrong unit is named and the proof by which it falls, or what must be demanded
    of its operator first.
    """
    if is_all and (operator or batch):
        raise InvalidInput("--all goes with neither --operator nor --batch", param="all")
    verdicts = _audited(operator, is_all=is_all)
    if batch:
        verdicts = {audited: _only(batch, audited, found) for audited, found in verdicts.items()}
    everything = [verdict for found in verdicts.values() for verdict in found]
    if as_json:
        show([_as_json(verdict) for verdict in everything])
    else:
        for audited, found in verdicts.items():
            _print(audited, found)
    if not all(verdict.is_right for verdict in everything):
        raise typer.Exit(1)


def _audited(operator: str, *, is_all: bool) -> dict[Account, list[Verdict]]:
    from backend.installation.installation import Installation

    installation = Installation(load_settings())
    try:
        if is_all:
            with installation.database.read() as tx:
                accounts = [known.account for known in tx.chain.operators()]
        else:
            own = account(installation, operator) if operator else installation.operator.account
            accounts = [own]
        return {audited: list(installation.auditor.audit(audited)) for audited in accounts}
    finally:
        installation.close()


def _only(batch: int, account: Account, verdicts: list[Verdict]) -> list[Verdict]:
    shown = [verdict for verdict in verdicts if verdict.header.number == batch]
    if not shown:
        raise InvalidInput(f"{account} has no batch {batch} that can be audited", param="batch")
    return shown


def _print(account: Account, verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        typer.echo(_as_line(verdict))
    typer.echo(f"{len(verdicts)} batches of {account}")


def _as_json(verdict: Verdict) -> dict[str, object]:
    proof = verdict.proof
    call = None if proof is None else {"function": proof.verb, "args": as_plain(proof.args)}
    return {
        "is_right": verdict.is_right,
        "finding": None if verdict.finding is None else asdict(verdict.finding),
        "proof": call,
        "demands": [
            {"tree": tree.name.lower(), "keys": [key_word(key) for key in keys]}
            for tree, keys in verdict.demands
        ],
        "header": {name: str(value) for name, value in asdict(verdict.header).items()},
    }


def _as_line(verdict: Verdict) -> str:
    header, finding = verdict.header, verdict.finding
    sums = f"{header.receipts_count} receipts, {header.entries_count} entries, {header.total:,} micro-units"
    if finding is None:
        return f"batch {header.number}: every unit is right ({sums})"
    unit = "" if finding.unit is None else f", from micro-unit {finding.unit:,} on"
    return f"batch {header.number}: WRONG, {finding.message}{unit}; {_remedy(verdict)} ({sums})"


def _remedy(verdict: Verdict) -> str:
    """What makes the batch fall."""
    if verdict.proof is not None:
        return f"it falls by {verdict.proof.verb}"
    wanted: dict[str, int] = {}
    for tree, keys in verdict.demands:
        wanted[tree.name.lower()] = wanted.get(tree.name.lower(), 0) + len(keys)
    if not wanted:
        return "there is nothing to demand"
    return "to be demanded first: " + ", ".join(f"{num} of its {tree}" for tree, num in wanted.items())
