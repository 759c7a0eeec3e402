"""The `loraledger` command. Heavy packages are imported by the commands that use them."""

from __future__ import annotations

import sys

import typer

from backend.cli import (
    adapters,
    audit,
    chat,
    daemons,
    data,
    doctor,
    earnings,
    keys,
    market,
    operator,
    payments,
    policy,
    proxy,
    receipts,
    snapshots,
    train,
    up,
    vote,
    wallets,
    watch,
)
from backend.cli.amounts import detail
from backend.cli.demo import command as demo
from backend.domain.errors import DomainError

app = typer.Typer(
    name="loraledger",
    help="A marketplace for specialised models that pays the people whose data made them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMAND_MODULES = (
    *(
        up,
        demo,
        doctor,
        payments,
        keys,
        chat,
        proxy,
        receipts,
        earnings,
        audit,
        watch,
        vote,
        market,
        data,
        train,
        wallets,
    ),
    *(snapshots, adapters, policy, operator, daemons),
)
for module in COMMAND_MODULES:
    module.register(app)


def main() -> None:
    """Run the command. Exit codes: 0 success, 1 a reported error, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except DomainError as error:
        print(f"error: {error}", file=sys.stderr)
        for name, value in error.details.items():
            print(f"  {name}: {detail(value)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
