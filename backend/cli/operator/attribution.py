"""`loraledger attribution verify`: compute a version's attribution index again, and compare."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.operator.session import open_installation
from backend.cli.output import AsJson, echo, print_json

if TYPE_CHECKING:
    from workers.training.supervise import Message

RESULTS = {True: "right", False: "WRONG", None: "open"}
OPEN = 3
LIMITS = (
    "Not checked: that the adapter and its checkpoint result from training on these rows. Training again "
    "with the options of the model card shows it."
)

commands = typer.Typer(help="Verify what attribution is computed from.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="attribution")


@commands.callback()
def _group() -> None:
    """Keeps `verify` a subcommand while it is the only one."""


@commands.command()
def verify(
    version: Annotated[
        str, typer.Argument(help="`owner/name`, `owner/name@version prefix`, version id or adapter digest.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Compute the attribution index of a version again from its base model, checkpoint and rows, and its
    distilled maps from its published answers, and compare each part with the published one.

    Exit code 0: everything is right, within the stated tolerances. 1: something is wrong. 3: nothing is
    wrong, but something cannot be checked. Takes as long as the index took in training, and needs the base
    model and the rows, which are fetched from other operators if they are not stored here.
    """
    from backend.services.market.catalogue import adapter_record
    from workers.attribution import verify_attribution

    with open_installation() as installation:
        installation.check_database()
        record = adapter_record(installation.database, version)
        checks = verify_attribution(installation, record, _report)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            echo(f"{RESULTS[check.is_right]:6} {check.name}: {check.message}")
        echo(LIMITS)
    if any(check.is_right is False for check in checks):
        raise typer.Exit(1)
    if any(check.is_right is None for check in checks):
        raise typer.Exit(OPEN)


def _report(event: Message) -> None:
    if event.kind == "working":
        echo(f"{event.data['stage']}: {event.data['done']} of {event.data['total']}", err=True)
