"""`loraledger market`: deploy and check a market on an EVM network. See docs/deploy.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.output import AsJson, print_json

TermsFile = Annotated[Path, typer.Argument(help="Terms of the market, a TOML file.")]
RecordFile = Annotated[
    Path | None,
    typer.Argument(
        help="Record of the deployment. Default: deployments/<chainId>.json for the chain of "
        "LORALEDGER_RPC_URL."
    ),
]
Key = Annotated[str, typer.Option("--key", help="Account that signs; its key must be in the key store.")]

commands = typer.Typer(help="Deploy a market to an EVM network and check it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="market")


@commands.command()
def key() -> None:
    """Create a key in the key store; prints its account."""
    from backend.deployment import command as market
    from backend.settings import load_settings

    typer.echo(market.make_key(load_settings()))


@commands.command()
def plan(terms: TermsFile) -> None:
    """Check a terms file and print the resulting deployment and quorum arithmetic. Sends nothing."""
    from backend.deployment import command as market

    for line in market.plan(terms):
        typer.echo(line)


@commands.command()
def deploy(
    terms: TermsFile,
    *,
    key: Key,
    folder: Annotated[Path, typer.Option(help="Folder to write the record to.")] = Path("deployments"),
) -> None:
    """Deploy the contracts, distribute the tokens and transfer control to the timelock; prints the record's
    path. Run the same command to resume an interrupted deployment.
    """
    from backend.deployment import command as market
    from backend.settings import load_settings

    typer.echo(market.deploy(load_settings(), terms, key, folder))


@commands.command()
def check(
    record: RecordFile = None,
    *,
    terms: Annotated[Path | None, typer.Option(help="Compare with this terms file too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a market on the chain with its record; print one line for each difference. Exit code 1 if there
    is one.
    """
    from dataclasses import asdict

    from backend.deployment import command as market
    from backend.settings import load_settings

    report = market.check(load_settings(), record, terms)
    if as_json:
        print_json([asdict(finding) for finding in report.findings])
    else:
        for finding in report.findings:
            typer.echo(finding)
        if not report.has_errors:
            typer.echo(f"no differences: {report.num_contracts} contracts at block {report.block_number}")
    if report.has_errors:
        raise typer.Exit(1)


@commands.command()
def delegate(
    record: RecordFile = None,
    *,
    key: Key,
    to: Annotated[str, typer.Option(help="Delegate. Default: the holder itself.")] = "",
) -> None:
    """Delegate the votes of an account's market tokens: undelegated tokens carry no votes."""
    from backend.deployment import command as market
    from backend.settings import load_settings

    typer.echo(f"mined in block {market.delegate(load_settings(), record, key, to)}")


@commands.command()
def sources(
    record: RecordFile = None,
    *,
    folder: Annotated[Path, typer.Option(help="Folder to write the files to.")] = Path("build/sources"),
) -> None:
    """Write standard JSON inputs and constructor arguments, for source verification by block explorers."""
    from backend.deployment import command as market
    from backend.settings import load_settings

    for path in market.write_sources(load_settings(), record, folder):
        typer.echo(path)
