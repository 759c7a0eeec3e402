"""The `loraledger` command. Heavy packages are imported by the commands that use them."""

from __future__ import annotations

import sys

import typer

from backend.cli import (
    adapters,
    chat,
    data,
    datanets,
    earnings,
    keys,
    payments,
    proxy,
    receipts,
    snapshots,
    train,
    vault,
    vote,
    wallets,
    webhooks,
)
from backend.cli.amounts import detail_lines
from backend.cli.extras import DEMO, OPERATOR, SERVER, needing
from backend.cli.operator import (
    adapter_folders,
    attribution,
    audit,
    daemons,
    database,
    datasets,
    doctor,
    market,
    membership,
    policy,
    replicas,
    up,
    watch,
)
from backend.cli.operator.demo import command as demo
from backend.cli.output import printable
from backend.domain.errors import DomainError

app = typer.Typer(
    name="loraledger",
    help="A marketplace for specialised models that pays the people whose data made them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # joins the lines of a paragraph
)
ACTORS = (
    *(payments, vault, keys, chat, proxy, receipts, earnings, vote, data, datanets, train, wallets),
    *(snapshots, adapters, webhooks),
)
SERVERS = (doctor, audit, watch, market, policy, membership, database, replicas, daemons)
for module in ACTORS:
    module.register(app)
for module in (up, attribution):
    app.add_typer(needing((OPERATOR,), module.register))
for module in SERVERS:
    app.add_typer(needing((SERVER,), module.register))
app.add_typer(needing((OPERATOR,), daemons.register_with_torch))
app.add_typer(needing((OPERATOR, DEMO), demo.register))
data.commands.add_typer(needing((OPERATOR,), datasets.register))
adapters.commands.add_typer(needing((OPERATOR,), adapter_folders.register))


def main() -> None:
    """Run the command. Exit codes: 0 success, 1 a reported error, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except DomainError as error:
        _report(f"error: {error}", *detail_lines(error))
        sys.exit(1)
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise  # a timeout or a connection: only the traceback says which
        name = "" if error.filename is None else f": {error.filename}"
        _report(f"error: {error.strerror}{name}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _report(*lines: str) -> None:
    for line in lines:
        print("\n".join(map(printable, line.split("\n"))), file=sys.stderr)


if __name__ == "__main__":
    main()
