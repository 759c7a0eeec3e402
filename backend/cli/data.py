"""Data sets from the command line: made, checked, contributed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli import contribution_steps
from backend.cli.session import AsJson, User, open_market, show
from backend.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTRIBUTOR = 3
Rows = Annotated[Path, typer.Argument(help="JSONL or Parquet.", exists=True, dir_okay=False, readable=True)]
Licence = Annotated[str, typer.Option(help="SPDX expression, such as CC-BY-4.0.")]
commands = typer.Typer(help="Make, check and contribute data sets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="data")


@commands.command()
def build(
    package: Annotated[str, typer.Argument(help="Import name of an installed package, or `python`.")],
    out: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    *,
    max_rows: Annotated[
        int, typer.Option(help="At most this many rows, spread over the package.", min=1)
    ] = 500,
) -> None:
    """Write the docstrings of an installed package as questions and answers."""
    from backend.services.contribute.docstrings import build_dataset

    dataset = build_dataset(package, max_rows)
    draft = out.with_name(out.name + ".tmp")
    draft.write_bytes(b"".join(dataset.lines()))
    draft.replace(out)
    typer.echo(f"{len(dataset.rows)} rows of {package}, licence {dataset.licence}, in {out}")


@commands.command()
def validate(rows: Rows, *, licence: Licence, as_json: AsJson = False) -> None:
    """Check a file as an upload would be, without any service; exit code 1 if there is a defect."""
    from backend.installation.upload_check import check_file

    report = asdict(check_file(rows, licence, load_settings()))
    _show_report(report, as_json=as_json)
    if report["defect_counts"]:
        raise typer.Exit(1)


@commands.command()
def push(
    rows: Rows,
    *,
    datanet: Annotated[int, typer.Option(help="Id of the datanet it goes to.", min=1)],
    licence: Licence,
    name: Annotated[str, typer.Option(help="Its title; left out: the file's name.")] = "",
    accept_partial: Annotated[
        bool, typer.Option("--accept-partial", help="Go without the lines that have a defect.")
    ] = False,
    is_agreed: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    user: User = CONTRIBUTOR,
) -> None:
    """Upload a file, show the report, and sign the contribution; exit code 1 if it is refused."""
    with open_market(user) as market:
        where = {"datanet": datanet, "name": name or rows.name, "licence": licence}
        where["accept_partial"] = accept_partial
        upload = contribution_steps.upload_file(market, where, rows)
        _show_report(upload["report"], as_json=False)
        if upload["state"] != "draft":
            sound = upload["report"]["num_rows"]
            hint = f"; --accept-partial contributes the {sound:,} sound rows" if sound else ""
            typer.echo(f"refused: nothing of it is kept{hint}")
            raise typer.Exit(1)
        if not is_agreed:
            typer.confirm("Sign and contribute it?", abort=True)
        submitted = contribution_steps.submit(market, upload["id"])
    typer.echo(f"{submitted['id']} is {submitted['state']}; `loraledger data status` follows it")


@commands.command()
def status(
    upload_id: Annotated[str, typer.Argument(help="One upload, with its report; left out: all.")] = "",
    *,
    user: User = CONTRIBUTOR,
    as_json: AsJson = False,
) -> None:
    """Say how far this wallet's uploads have come."""
    with open_market(user) as market:
        if upload_id:
            found = [market.get(f"/v1/contributions/{upload_id}")]
        else:
            found = market.all("/v1/contributions")
    if as_json:
        show(found)
        return
    for upload in found:
        place = "" if upload["index"] is None else f", contribution {upload['index']}"
        typer.echo(
            f"{upload['id']} {upload['state']}{place} in datanet {upload['datanet']}: {upload['name']}"
        )
        if upload["reason"] is not None:
            typer.echo(f"  the curators' reason: {upload['reason_name'] or 'unknown'} [{upload['reason']}]")
        if upload["error"]:
            typer.echo(f"  not recorded: {upload['error']['message']}")
        if upload_id:
            _show_report(upload["report"], as_json=False)


@commands.command()
def withdraw(
    upload_id: Annotated[str, typer.Argument(help="The upload, as `loraledger data status` names it.")],
    *,
    is_agreed: Annotated[bool, typer.Option("--yes", help="Without asking.")] = False,
    user: User = CONTRIBUTOR,
) -> None:
    """Take a contribution back: no later snapshot has it, and nothing of its content is kept here."""
    if not is_agreed:
        typer.confirm("Take it back? The same rows earn nothing in what is trained from now on.", abort=True)
    with open_market(user) as market:
        upload = contribution_steps.withdraw(market, upload_id)
    typer.echo(f"{upload['id']} is {upload['state']}; `loraledger data status` follows it")


def _show_report(report: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show(report)
    else:
        typer.echo("\n".join(contribution_steps.report_lines(report)))
