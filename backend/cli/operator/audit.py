"""`loraledger audit`: recompute batches from the chain and their public data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.operator.session import open_installation, parse_account
from backend.cli.output import AsJson, echo, print_json
from backend.domain.errors import InvalidInput
from backend.domain.money import in_dollars

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.services.audit.auditor import Verdict


NOT_CHECKED = (
    "that shares follow from the answers: `loraledger receipts verify --re-execute --recompute-attribution`",
    "that adapters' attribution indices follow from the rows: `loraledger attribution verify`",
)
"""Of attribution. An audit checks that lists are well-formed and name accepted contributions."""


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    *,
    operator: Annotated[str, typer.Option(help="Operator to audit. Default: this installation's.")] = "",
    is_all: Annotated[bool, typer.Option("--all", help="Audit all operators.")] = False,
    batch: Annotated[int, typer.Option(help="Show this batch only.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Recompute every batch and verify every unit. Exit code 1 if one is wrong.

    For a wrong batch, print its first wrong unit and the proof that voids it, or the data to demand from its
    operator first.
    """
    if is_all and (operator or batch):
        raise InvalidInput("--all cannot be combined with --operator or --batch", param="all")
    verdicts_by_operator = _audit(operator, is_all=is_all)
    if batch:
        verdicts_by_operator = {
            account: _select(batch, account, verdicts) for account, verdicts in verdicts_by_operator.items()
        }
    everything = [verdict for verdicts in verdicts_by_operator.values() for verdict in verdicts]
    if as_json:
        print_json([_as_json(verdict) for verdict in everything])
    else:
        for account, verdicts in verdicts_by_operator.items():
            _print(account, verdicts)
    if not all(verdict.is_right for verdict in everything):
        raise typer.Exit(1)


def _audit(operator: str, *, is_all: bool) -> dict[Account, list[Verdict]]:
    with open_installation() as installation:
        installation.check_database()
        if is_all:
            with installation.database.read() as tx:
                accounts = list(tx.chain.newest_batches())
        else:
            own = parse_account(installation, operator) if operator else installation.operator.account
            accounts = [own]
        return {account: list(installation.audit.auditor.audit(account)) for account in accounts}


def _select(batch: int, account: Account, verdicts: list[Verdict]) -> list[Verdict]:
    """Errors: `InvalidInput` if there is no such batch."""
    selected = [verdict for verdict in verdicts if verdict.header.number == batch]
    if not selected:
        raise InvalidInput(f"{account} has no batch {batch} that can be audited", param="batch")
    return selected


def _print(account: Account, verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        echo(_as_line(verdict))
    echo(f"{len(verdicts)} batches of {account}")
    for each in NOT_CHECKED:
        echo(f"not checked: {each}")


def _as_json(verdict: Verdict) -> dict[str, object]:
    from backend.domain.disputes.witnesses import key_word
    from backend.domain.transactions import as_json as as_plain

    proof = verdict.proof
    call = None if proof is None else {"function": proof.function, "args": as_plain(proof.args)}
    return {
        "is_right": verdict.is_right,
        "not_checked": NOT_CHECKED,
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
    sums = f"{header.receipts_count} receipts, {header.entries_count} entries, {in_dollars(header.total)}"
    if finding is None:
        return f"batch {header.number}: every unit is right ({sums})"
    unit = "" if finding.unit is None else f", starting at micro-unit {finding.unit:,}"
    return f"batch {header.number}: WRONG, {finding.message}{unit}; {_remedy(verdict)} ({sums})"


def _remedy(verdict: Verdict) -> str:
    """Describe how the batch can be voided."""
    if verdict.proof is not None:
        return f"voided by {verdict.proof.function}"
    num_demands: dict[str, int] = {}
    for tree, keys in verdict.demands:
        num_demands[tree.name.lower()] = num_demands.get(tree.name.lower(), 0) + len(keys)
    if not num_demands:
        return "nothing to demand"
    return "demand first: " + ", ".join(f"{num} of its {tree}" for tree, num in num_demands.items())
