"""`loraledger market`: a market of one's own on an EVM network. See docs/deploy.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.session import AsJson, show
from backend.settings import load_settings

TermsFile = Annotated[Path, typer.Argument(help="The terms, a TOML file.")]
RecordFile = Annotated[
    Path | None,
    typer.Argument(help="Record of the deployment; left out: deployments/<chainId>.json of the RPC's chain."),
]
Key = Annotated[str, typer.Option("--key", help="Account that signs, its key in the key store.")]

commands = typer.Typer(help="Deploy a market to an EVM network and check it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="market")


@commands.command()
def key() -> None:
    """Make a key in the key store; prints its account."""
    from backend.deployment import command as market

    typer.echo(market.make_key(load_settings()))


@commands.command()
def plan(terms: TermsFile) -> None:
    """Check a terms file and print what it comes to, quorum arithmetic included. Sends nothing."""
    from backend.deployment import command as market

    for line in market.plan(terms):
        typer.echo(line)


@commands.command()
def deploy(
    terms: TermsFile,
    *,
    key: Key,
    folder: Annotated[Path, typer.Option(help="Where the record goes.")] = Path("deployments"),
) -> None:
    """Deploy the contracts, hand out the tokens, hand over to the timelock; prints the record's path. A run
    that died is continued by the same command.
    """
    from backend.deployment import command as market

    typer.echo(market.deploy(load_settings(), terms, key, folder))


@commands.command()
def check(
    record: RecordFile = None,
    *,
    terms: Annotated[Path | None, typer.Option(help="Compare with these terms too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a market from the chain and print what is off, one line each; exit code 1 if anything is."""
    from dataclasses import asdict

    from backend.deployment import command as market

    report = market.check(load_settings(), record, terms)
    if as_json:
        show([asdict(finding) for finding in report.findings])
    else:
        for finding in report.findings:
            typer.echo(finding)
        if not report.is_off:
            typer.echo(f"all fine: {report.num_contracts} contracts at block {report.block_number}")
    if report.is_off:
        raise typer.Exit(1)


@commands.command()
def delegate(
    record: RecordFile = None,
    *,
    key: Key,
    to: Annotated[str, typer.Option(help="Who votes with them; left out: the holder itself.")] = "",
) -> None:
    """Let an account's market tokens count as votes: until then they have none."""
    from backend.deployment import command as market

    typer.echo(f"mined in block {market.delegate(load_settings(), record, key, to)}")


@commands.command()
def sources(
    record: RecordFile = None,
    *,
    folder: Annotated[Path, typer.Option(help="Where the files go.")] = Path("build/sources"),
) -> None:
    """Write what block explorers need to verify the sources: standard-JSON inputs, constructor arguments."""
    from backend.deployment import command as market

    for path in market.write_sources(load_settings(), record, folder):
        typer.echo(path)
