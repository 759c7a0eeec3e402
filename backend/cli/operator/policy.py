"""`loraledger policy`: denials, floor prices and takedowns of this installation."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.amounts import parse_price
from backend.cli.operator.session import open_installation, parse_account
from backend.cli.output import AsJson, echo, print_json
from backend.domain.denials import Denied, FloorPrice, Reason, Subject
from backend.domain.money import PRICE, prices_in_dollars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.denials import Denial
    from backend.installation.installation import Installation

POLL_SECONDS = 0.5

Kind = Annotated[str, typer.Argument(help=f"{', '.join(Denied)}.")]
SubjectId = Annotated[str, typer.Argument(help="Digest, id or account, depending on the kind.")]
Why = Annotated[
    Reason,
    typer.Option(help="Reason given in refusals; `legal` and `licence` are refused with HTTP 451."),
]

commands = typer.Typer(help="Configure what this installation refuses to serve.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="policy")


@commands.command()
def deny(kind: Kind, subject: SubjectId, *, reason: Why = Reason.POLICY) -> None:
    """Deny an adapter, every adapter trained on a datanet, a payer, or a folder at the gateway. Effective at
    once.
    """
    with _opened() as installation:
        denial = installation.denials.deny(_parse_subject(installation, kind, subject), reason)
    echo(_as_line(denial))


@commands.command()
def allow(kind: Kind, subject: SubjectId) -> None:
    """Remove a denial."""
    with _opened() as installation:
        parsed = _parse_subject(installation, kind, subject)
        installation.denials.allow(parsed)
    echo(f"{parsed.kind} {parsed.id} is no longer denied")


@commands.command("list")
def list_denials(*, as_json: AsJson = False) -> None:
    """List all denials, oldest first."""
    with _opened() as installation:
        denials = installation.denials.list()
    if as_json:
        print_json([_as_json(denial) for denial in denials])
        return
    for denial in denials:
        echo(_as_line(denial))


@commands.command()
def floor(
    *,
    prices: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Dollars that the operator itself earns per million prompt tokens, and completion tokens. "
            "Default: show the current."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set the floor price: versions with which the operator would earn less are refused, from the next
    request on. It earns its share of their prices, and the creator's of its own; the protocol's fee is not
    deducted.
    """
    wanted = None if prices is None else FloorPrice(*(parse_price(price, "--prices") for price in prices))
    with _opened() as installation:
        if wanted is not None:
            installation.denials.set_floor(wanted)
        floor_price = installation.denials.floor()
    if as_json:
        print_json({name: PRICE.render(price) for name, price in asdict(floor_price).items()})
        return
    lowest = prices_in_dollars(floor_price.prompt, floor_price.completion)
    echo(f"floor price: {lowest}, of what the operator earns")


@commands.command()
def takedown(
    model: Annotated[str, typer.Argument(help="`owner/name`, version id or adapter digest.")],
    *,
    reason: Why = Reason.LEGAL,
) -> None:
    """Deny an adapter under every name, and delete its local copies. May be repeated.

    New requests are refused at once. The copy that running answers use is deleted when they have ended.
    """
    with _opened() as installation:
        takedown = installation.denials.take_down(installation.catalogue.record(model), reason)
        echo(
            f"adapter {takedown.adapter} is denied ({reason}); deleted from the store: "
            f"{', '.join(takedown.contents) or 'nothing'}"
        )
        if takedown.others:
            echo(f"kept, because their content is not the adapter's: {', '.join(takedown.others)}")
        if not installation.denials.drop_folders(takedown):
            echo(f"waiting for {len(takedown.running)} running answers")
            while not installation.denials.drop_folders(takedown):
                time.sleep(POLL_SECONDS)
        installation.blobs.delete_forgotten()
    echo("all local copies are deleted")


@contextmanager
def _opened() -> Iterator[Installation]:
    """Errors: as of `check_database`."""
    with open_installation() as installation:
        installation.check_database()
        yield installation


def _parse_subject(installation: Installation, kind: str, subject: str) -> Subject:
    """An account may be given by CAIP-10."""
    return Subject.parse(kind, parse_account(installation, subject) if kind == Denied.PAYER else subject)


def _as_json(denial: Denial) -> dict[str, Any]:
    subject = denial.subject
    return {
        "kind": subject.kind,
        "subject": subject.id,
        "reason": denial.reason,
        "created_at": denial.created_at.isoformat(),
    }


def _as_line(denial: Denial) -> str:
    return f"{denial.subject.kind:8} {denial.subject.id}  {denial.reason}"
