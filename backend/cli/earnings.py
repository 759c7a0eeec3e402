"""`loraledger earnings` and `loraledger claim`: show what an account earned and why, and have it paid out."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.actor import CONTRIBUTOR, Actor, acting, taking
from backend.cli.amounts import detail_lines, dollars
from backend.cli.output import AsJson, echo, note_if_empty, print_json
from backend.domain.earnings import EarningsBy, EarningState
from backend.domain.errors import DomainError
from backend.domain.money import AMOUNT, PPM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backend.client.api import ApiClient
    from backend.domain.ids import Account


commands = typer.Typer(help="Show what an account earned, and why.", invoke_without_command=True)
Of = Annotated[str, typer.Option("--of", help="Account that earned. Default: the wallet's own.")]
FILTERS: dict[str, Any] = {
    "of": Of,
    "since": Annotated[
        str, typer.Option(help="First day (UTC) of the batches' commits, such as 2026-11-01.")
    ],
    "until": Annotated[str, typer.Option(help="Last day (UTC) of the batches' commits.")],
    "operator": Annotated[str, typer.Option(help="Only what this operator credits.")],
    "adapter": Annotated[
        str, typer.Option(help="Only of this adapter: `owner/name`, `owner/name@version` or a version id.")
    ],
    "contribution": Annotated[
        str, typer.Option(help="Only of this contribution: datanet and index in it, such as 7/0.")
    ],
    "state": Annotated[
        EarningState | None, typer.Option(help="Only entries in this state. Default: all but void.")
    ],
}
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
By = Annotated[
    EarningsBy | None,
    typer.Option(help="Show the sums of all entries. Default: what final batches credit, by operator."),
]


def _chosen(values: dict[str, Any]) -> dict[str, str]:
    """The filters that are given, as the API has them."""
    given = {name: str(value) for name, value in values.items() if value}
    return {"account" if name == "of" else name: value for name, value in given.items()}


filtering = taking("filters", FILTERS, _chosen, {"state": None})
"""Gives a command the options of `FILTERS`; they reach it as its parameter `filters`."""


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="earnings")
    app.command()(claim)


@commands.callback()
@acting(CONTRIBUTOR)
@filtering
def earnings(
    context: typer.Context,
    *,
    by: By = None,
    filters: dict[str, str],
    actor: Actor,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show what an account earned: in final batches by operator, or with --by the sums of all entries."""
    if context.invoked_subcommand:
        _refuse_options(context)
        return
    if by:
        _show_summary(actor, by, filters, as_json=as_json, as_csv=as_csv)
    elif as_csv or filters.keys() - {"account"}:
        raise typer.BadParameter("--csv and filters need --by, or `loraledger earnings entries`")
    else:
        _show_claimable(actor, filters, as_json=as_json)


@commands.command("entries")
@acting(CONTRIBUTOR)
@filtering
def list_entries(
    *,
    filters: dict[str, str],
    actor: Actor,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List what batches credit to an account, entry by entry, the newest batch first."""
    from backend.client import earnings as calls

    with actor.connect() as client:
        if as_csv:
            for piece in calls.entries_csv(client, _warn, **filters):
                typer.echo(piece, nl=False)
            return
        found, unverifiable = calls.entries(client, **filters)
    _warn(each["operator"] for each in unverifiable)
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no entries")
    for entry in found:
        paid_for = "" if entry["contribution"] is None else f" {entry['datanet']}/{entry['contribution']}"
        echo(
            f"{entry['receipt_id']}  {dollars(entry['amount']):>22}  {entry['state']:<7}  "
            f"{entry['role']}{paid_for} of {entry['adapter']}"
        )


@commands.command("show")
@acting(CONTRIBUTOR)
def show_receipt(
    receipt: Annotated[str, typer.Argument(help="Id of a receipt, from `loraledger earnings entries`.")],
    *,
    of: Of = "",
    actor: Actor,
    as_json: AsJson = False,
) -> None:
    """Show what a receipt paid an account, to whom it paid the rest, and where its proof is."""
    with actor.connect() as client:
        found = client.get(f"/v1/earnings/entries/{receipt}", **({"account": of} if of else {}))
    if as_json:
        print_json(found)
        return
    echo(
        f"{dollars(found['amount'])} {found['state']}, {_percent(found['ppm'])} of {dollars(found['charge'])}"
        f" for {found['prompt_tokens']} prompt and {found['completion_tokens']} completion tokens"
    )
    for one in found["slices"]:
        echo(f"{one['adapter']}, weight {_percent(one['weight_ppm'])}: {dollars(one['charge'])}")
        for part in one["parts"]:
            echo(f"  {_part(part, found['account'])}")
    echo(f"method    {found['method']}")
    echo(f"accuracy  {_accuracy(found)}")
    echo(f"batch     {found['batch']} of operator {found['operator']}: {found['batch_state']}")
    echo(f"data      {found['data_cid']}")
    echo(f"proof     {found['proof_url'] or 'the operator states no URL'}")


@acting(CONTRIBUTOR)
def claim(
    *,
    of: Of = "",
    is_own: Annotated[
        bool,
        typer.Option(
            "--own-gas",
            help="Send from the wallet: amounts too small for the operator to relay, or beyond its budget.",
        ),
    ] = False,
    actor: Actor,
) -> None:
    """Claim all earnings of an account; they are paid to its payout wallet. Exit code 1 if a claim fails.

    What is too small for the operator to relay, less than 0.00001 dollars, is left there, and is no error.
    """
    from backend.domain.caip import account_of

    with actor.connect() as client:
        account = account_of(of, client.wallet.deployment.chain_id) if of else client.wallet.account
        found = client.list_all("/v1/earnings", account=account)
        due = [each for each in found if AMOUNT.read(each["claimable"])]
        done = [_claim_from(client, earning, account, is_own_gas=is_own) for earning in due]
    for reason in filter(None, (each["unverifiable"] for each in found)):
        echo(f"not counted: {reason}", err=True)
    if not due:
        echo("nothing to claim")
    if not all(done):
        raise typer.Exit(1)


def _claim_from(client: ApiClient, earning: Mapping[str, Any], account: Account, *, is_own_gas: bool) -> bool:
    """Claim from one operator, and say what became of it. Whether it did not fail."""
    from backend.client import earnings as calls

    amount, operator = dollars(earning["claimable"]), earning["operator"]
    try:
        calls.claim(client, earning, account, is_own_gas=is_own_gas)
    except DomainError as error:
        is_small = error.details.get("code") == "nothing_to_claim" and not is_own_gas
        reason = "too little for the operator to relay; --own-gas claims it" if is_small else error
        echo(f"{amount} not claimed from {operator}: {reason}", err=True)
        for line in [] if is_small else detail_lines(error):
            echo(line, err=True)
        return is_small
    echo(f"{amount} claimed from {operator}")
    return True


def _refuse_options(context: typer.Context) -> None:
    """Errors: `typer.BadParameter` for options before the name of a subcommand, which do not reach it."""
    sources = filter(None, map(context.get_parameter_source, context.params))
    if any(source.name == "COMMANDLINE" for source in sources):
        raise typer.BadParameter(f"options follow the name of the command `{context.invoked_subcommand}`")


def _show_claimable(actor: Actor, filters: Mapping[str, str], *, as_json: bool) -> None:
    with actor.connect() as client:
        found = client.list_all("/v1/earnings", **filters)
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "nothing earned in final batches yet")
    for earning in found:
        reason = f" ({earning['unverifiable']})" if earning["unverifiable"] else ""
        echo(
            f"operator {earning['operator']}: {dollars(earning['claimable'])} to claim, "
            f"{dollars(earning['cumulative'])} earned, {dollars(earning['claimed'])} claimed{reason}"
        )


def _show_summary(
    actor: Actor, by: EarningsBy, filters: Mapping[str, str], *, as_json: bool, as_csv: bool
) -> None:
    from backend.client import earnings as calls

    with actor.connect() as client:
        summary = calls.summary(client, by, **filters)
    _warn(each["operator"] for each in summary["unverifiable"])
    if as_json:
        print_json(summary)
    elif as_csv:
        _write_csv(by, summary["data"])
    else:
        note_if_empty(summary["data"], "no entries")
        for group in summary["data"]:
            states = [state for state in calls.SUMMED[1:] if AMOUNT.read(group[state])]
            parts = ", ".join(f"{dollars(group[state])} {state}" for state in states)
            name = group["adapter"] or group["key"] or "no contribution"
            echo(f"{name}: {parts or dollars(group['amount'])}, entries: {group['num_entries']:,}")


def _write_csv(by: EarningsBy, groups: Sequence[Mapping[str, Any]]) -> None:
    from backend.client.earnings import SUMMED

    rows = csv.writer(sys.stdout)
    rows.writerow(
        [by, "num_entries", *(f"{name}_{unit}" for name in SUMMED for unit in ("micro_units", "usd"))]
    )
    for group in groups:
        amounts = [group[name][key] for name in SUMMED for key in (AMOUNT.unit, AMOUNT.dollars)]
        rows.writerow([group["key"] or "", group["num_entries"], *amounts])


def _part(part: Mapping[str, Any], account: str) -> str:
    whose = " (this account)" if part["account"] == account else ""
    source = ""
    if part["contribution"] is not None:
        source = f" for {part['datanet']}/{part['contribution']}, share {_percent(part['share_ppm'])},"
    return f"{dollars(part['amount'])} {part['role']}{source} to {part['account']}{whose}"


def _accuracy(found: Mapping[str, Any]) -> str:
    if found["method_accuracy"] is None:
        return str(found["method_accuracy_reason"])
    return (
        f"agrees with the gradient at {found['method_accuracy']:.2f} on {found['method_accuracy_answers']} "
        "generated answers (rank correlation, not LDS; stated by the creator, and recomputed by "
        "`loraledger attribution verify`)"
    )


def _percent(ppm: int) -> str:
    return f"{ppm * 100 / PPM:.4g} %"


def _warn(operators: Iterable[str]) -> None:
    for operator in operators:
        echo(f"without some batches of {operator}: the market cannot verify or list them now", err=True)
