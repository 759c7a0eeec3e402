"""Data sets from the command line."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import Annotated

import typer

commands = typer.Typer(help="Make data sets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="data")


@commands.callback()
def main() -> None:
    """Keep `build` a command of its own, also while it is the only one."""


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
