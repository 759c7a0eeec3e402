"""`loraledger receipts`: what was paid for, and whether it is what it says."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.session import AsJson, User, open_installation, open_market, show
from backend.domain.errors import NotFound
from backend.domain.ids import Hash32, ReceiptId

if TYPE_CHECKING:
    from backend.installation.installation import Installation
    from backend.services.receipts.verification import Check, ShownReceipt

PAYER = 7
MARKS = {True: "right", False: "WRONG", None: "open"}
_ID = re.compile("0x[0-9a-f]{64}")

commands = typer.Typer(help="See what was paid for, and check it offline.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="receipts")


@commands.command("list")
def list_receipts(*, user: User = PAYER, as_json: AsJson = False) -> None:
    """The wallet's newest receipts."""
    with open_market(user) as market:
        found = market.get("/v1/receipts", limit=100)["data"]
    if as_json:
        show(found)
        return
    for one in found:
        batch = "no batch yet" if one["batch"] is None else f"batch {one['batch']}"
        typer.echo(f"{one['id']}  {int(one['receipt']['charge']):>12,} micro-units  {batch}")


@commands.command("show")
def show_receipt(
    receipt: Annotated[str, typer.Argument(help="Its id.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, for `verify`.")] = None,
    user: User = PAYER,
) -> None:
    """One receipt as JSON, with all that is needed to check it; the salt is there for its payer only."""
    with open_market(user) as market:
        found = market.get(f"/v1/receipts/{receipt}")
    if out is None:
        show(found)
    else:
        out.write_text(json.dumps(found, indent=2) + "\n")
        typer.echo(f"written to {out}")


@commands.command()
def verify(
    receipt: Annotated[
        str, typer.Argument(help="File that `show` wrote, or the id of one of this home's own.")
    ],
    *,
    request: Annotated[
        Path | None, typer.Option(help="The request's body, byte by byte.", exists=True, dir_okay=False)
    ] = None,
    answer: Annotated[
        Path | None, typer.Option(help="The answer's text.", exists=True, dir_okay=False)
    ] = None,
    recomputes: Annotated[
        bool, typer.Option("--recompute-attribution", help="From the index in the adapter's folder.")
    ] = False,
    executes: Annotated[
        bool, typer.Option("--re-execute", help="Compute the answer again; takes --request and --answer.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a receipt against the chain as this home knows it; exit code 1 if something is wrong.

    No API, no node and no engine is asked. --re-execute starts an engine of its own, and fetches the adapter
    if it is not here.
    """
    with open_installation() as installation:
        shown = _shown(installation, receipt)
        body = None if request is None else request.read_bytes()
        text = None if answer is None else answer.read_text(encoding="utf-8")
        checks = _checks(installation, shown, body, text, recomputes=recomputes, executes=executes)
    if as_json:
        show([asdict(check) for check in checks])
    else:
        for check in checks:
            typer.echo(f"{MARKS[check.is_right]:6} {check.name:12} {check.message}")
    if any(check.is_right is False for check in checks):
        raise typer.Exit(1)


def _checks(
    installation: Installation,
    shown: ShownReceipt,
    body: bytes | None,
    answer: str | None,
    *,
    recomputes: bool,
    executes: bool,
) -> list[Check]:
    from backend.installation.verification import Recomputation, verification_of

    checks = list(verification_of(installation).checks(shown))
    again = Recomputation(installation, shown, body, answer)
    content = again.content()
    if content is not None:
        checks.append(content)
        if content.is_right is False:
            return checks  # what was answered to something else is no matter here
    repeated = again.execute() if executes else None
    if repeated is not None:
        checks.append(again.execution(repeated))
    return [*checks, *(again.attribution(repeated) if recomputes else ())]


def _shown(installation: Installation, receipt: str) -> ShownReceipt:
    from backend.installation.verification import stored
    from backend.services.receipts.receipt_file import parse_shown

    if _ID.fullmatch(receipt.lower()):
        return stored(installation, ReceiptId(Hash32(receipt.lower())))
    path = Path(receipt)
    if not path.is_file():
        raise NotFound(f"{receipt!r} is neither a file nor a receipt's id", param="receipt")
    return parse_shown(path.read_bytes())
