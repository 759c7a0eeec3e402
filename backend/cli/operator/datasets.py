"""`loraledger data build` and `validate`: prepare data sets for contribution."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.data import Licence, Rows
from backend.cli.output import AsJson
from backend.cli.reports import print_report
from backend.disk.files import write_durably


def register(data: typer.Typer) -> None:
    data.command()(build)
    data.command()(validate)


def build(
    package: Annotated[str, typer.Argument(help="Import name of an installed package, or `python`.")],
    out: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    *,
    max_rows: Annotated[
        int, typer.Option(help="At most this many rows, spread over the package.", min=1)
    ] = 500,
) -> None:
    """Write the docstrings of an installed package as questions and answers, in JSONL."""
    from backend.services.contribute.docstrings import build_dataset

    dataset = build_dataset(package, max_rows)
    write_durably(out, b"".join(dataset.lines()).decode())
    typer.echo(f"{len(dataset.rows)} rows of {package}, licence {dataset.licence}, in {out}")


def validate(rows: Rows, *, licence: Licence, as_json: AsJson = False) -> None:
    """Check a file as the API checks an upload, without any service. Exit code 1 if there is a defect."""
    from backend.installation.upload_check import check_file
    from backend.settings import load_settings

    report = asdict(check_file(rows, licence, load_settings()))
    print_report(report, as_json=as_json)
    if report["defect_counts"]:
        raise typer.Exit(1)
