"""`loraledger data`: contribute data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.actor import CONTRIBUTOR, Actor, acting
from backend.cli.output import AsJson, echo, note_if_empty, print_json
from backend.cli.progress import transferring
from backend.cli.reports import print_report
from backend.domain.texts import counted

Rows = Annotated[
    Path, typer.Argument(help="JSONL or Parquet file.", exists=True, dir_okay=False, readable=True)
]
Licence = Annotated[str, typer.Option(help="SPDX expression, such as CC-BY-4.0.")]
commands = typer.Typer(help="Build, validate and contribute data sets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="data")


@commands.command()
@acting(CONTRIBUTOR)
def push(
    rows: Rows,
    *,
    datanet: Annotated[int, typer.Option(help="Id of the datanet it goes to.", min=1)],
    licence: Licence,
    name: Annotated[str, typer.Option(help="Title of the contribution. Default: the file's name.")] = "",
    accept_partial: Annotated[
        bool, typer.Option("--accept-partial", help="Contribute without the lines that have a defect.")
    ] = False,
    actor: Actor,
) -> None:
    """Upload a file, show its report, and sign the contribution. Exit code 1 if it is refused."""
    from backend.client.contributions import rows_to_sign, submit, upload_file

    with actor.connect() as client:
        params = {"datanet": datanet, "name": name or rows.name, "licence": licence}
        params["accept_partial"] = accept_partial
        with transferring(rows) as show:
            upload = upload_file(client, params, rows, show)
        print_report(upload["report"], as_json=False)
        if upload["state"] != "draft":
            num_valid = upload["report"]["num_rows"]
            hint = (
                f"; --accept-partial contributes the {counted(num_valid, 'valid row')}" if num_valid else ""
            )
            echo(f"refused; nothing was stored{hint}")
            raise typer.Exit(1)
        file = rows_to_sign(client, upload, rows, accepts_partial=accept_partial)
        submitted = submit(client, upload, datanet=datanet, licence=licence, file=file)
    echo(f"{submitted['id']} is {submitted['state']}; follow it with `loraledger data status`")


@commands.command()
@acting(CONTRIBUTOR)
def status(
    upload_id: Annotated[
        str, typer.Argument(help="Id of one upload, shown with its report. Default: all.")
    ] = "",
    *,
    actor: Actor,
    as_json: AsJson = False,
) -> None:
    """Show the status of this wallet's uploads."""
    with actor.connect() as client:
        if upload_id:
            found = [client.get(f"/v1/contributions/{upload_id}")]
        else:
            found = client.list_all("/v1/contributions")
    if as_json:
        print_json(found)
        return
    note_if_empty(found, "no uploads; `loraledger data push` contributes a file")
    for upload in found:
        index = "" if upload["index"] is None else f", contribution {upload['index']}"
        echo(f"{upload['id']} {upload['state']}{index} in datanet {upload['datanet']}: {upload['name']}")
        if upload["reason"] is not None:
            echo(f"  curators' reason: {upload['reason_name'] or 'unknown'} [{upload['reason']}]")
        if upload["error"]:
            echo(f"  not recorded: {upload['error']['message']}")
        if upload_id:
            print_report(upload["report"], as_json=False)


@commands.command()
@acting(CONTRIBUTOR)
def withdraw(
    upload_id: Annotated[str, typer.Argument(help="Id of the upload, from `loraledger data status`.")],
    *,
    actor: Actor,
) -> None:
    """Withdraw a contribution: later snapshots leave it out, and its content is deleted here."""
    from backend.client import contributions

    actor.confirm("Withdraw it? Its rows earn nothing from adapters trained from now on.")
    with actor.connect() as client:
        upload = contributions.withdraw(client, upload_id)
    echo(f"{upload['id']} is {upload['state']}; follow it with `loraledger data status`")
