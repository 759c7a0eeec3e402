"""`loraledger policy`: what this installation does not serve, and below which price nothing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.session import AsJson, account, open_installation, show
from backend.domain.denials import Denied, FloorPrice, Reason, Subject

if TYPE_CHECKING:
    from backend.domain.denials import Denial
    from backend.installation.installation import Installation

POLL_SECONDS = 0.5

Kind = Annotated[str, typer.Argument(help=f"{', '.join(Denied)}.")]
Of = Annotated[str, typer.Argument(help="Digest, id or account, as the kind has it.")]
Why = Annotated[
    Reason, typer.Option(help="What whoever is refused is told; legal and licence answer HTTP 451.")
]

commands = typer.Typer(help="Say what this installation does not serve.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="policy")


@commands.command()
def deny(kind: Kind, subject: Of, *, reason: Why = Reason.POLICY) -> None:
    """Refuse an adapter, all that learned from a datanet, a payer, or a folder at the gateway, at once."""
    with open_installation() as installation:
        denial = installation.policy.deny(_parsed(installation, kind, subject), reason)
    typer.echo(_as_line(denial))


@commands.command()
def allow(kind: Kind, subject: Of) -> None:
    """End a denial."""
    with open_installation() as installation:
        found = _parsed(installation, kind, subject)
        installation.policy.allow(found)
    typer.echo(f"{found.kind} {found.id} is not denied any more")


@commands.command("list")
def list_denials(*, as_json: AsJson = False) -> None:
    """All denials, oldest first."""
    with open_installation() as installation:
        denials = installation.policy.denials()
    if as_json:
        show([_as_json(denial) for denial in denials])
        return
    for denial in denials:
        typer.echo(_as_line(denial))


@commands.command()
def floor(
    *,
    prices: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Token units per million prompt tokens, and completion tokens; left out: show it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve no version that asks less for a token, from the next request on."""
    with open_installation() as installation:
        if prices is not None:
            installation.policy.set_floor(FloorPrice(*prices))
        found = installation.policy.floor()
    if as_json:
        show(asdict(found))
        return
    typer.echo(f"served from {found.prompt:,} and {found.completion:,} token units per million tokens up")


@commands.command()
def takedown(
    model: Annotated[str, typer.Argument(help="`owner/name`, version id or adapter digest.")],
    *,
    reason: Why = Reason.LEGAL,
) -> None:
    """Deny an adapter under any name, and delete what is kept of it; may be repeated.

    New requests are refused at once. Answers under way end first; then their copy is deleted too.
    """
    with open_installation() as installation:
        taken = installation.policy.take_down(installation.catalogue.record(model), reason)
        typer.echo(
            f"adapter {taken.adapter} is denied ({reason}); out of the store: {', '.join(taken.contents)}"
        )
        if not installation.policy.drop_copies(taken):
            typer.echo(f"waiting for {len(taken.under_way)} answers under way")
            while not installation.policy.drop_copies(taken):
                time.sleep(POLL_SECONDS)
    typer.echo("nothing of it is left here")


def _parsed(installation: Installation, kind: str, subject: str) -> Subject:
    return Subject.parse(kind, account(installation, subject) if kind == Denied.PAYER else subject)


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
