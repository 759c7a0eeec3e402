"""`loraledger receipts`: list, show and verify receipts."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.actor import Actor, acting
from backend.cli.amounts import dollars
from backend.cli.session import AsJson, open_installation, print_json
from backend.domain.errors import NotFound
from backend.domain.ids import Hash32, ReceiptId

if TYPE_CHECKING:
    from backend.installation.installation import Installation
    from backend.services.receipts.verification import Check, ReceiptFile

PAYER = 7
RESULTS = {True: "right", False: "WRONG", None: "open"}
_ID = re.compile("0x[0-9a-f]{64}")

commands = typer.Typer(help="List receipts, and verify them offline.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="receipts")


@commands.command("list")
@acting(PAYER)
def list_receipts(*, actor: Actor, as_json: AsJson = False) -> None:
    """List the wallet's newest receipts."""
    with actor.connect() as client:
        found = client.get("/v1/receipts", limit=100)["data"]
    if as_json:
        print_json(found)
        return
    for receipt in found:
        batch = "no batch yet" if receipt["batch"] is None else f"batch {receipt['batch']}"
        typer.echo(f"{receipt['id']}  {dollars(receipt['charge']):>22}  {batch}")


@commands.command("show")
@acting(PAYER)
def show_receipt(
    receipt: Annotated[str, typer.Argument(help="Id of the receipt.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, for `verify`.")] = None,
    actor: Actor,
) -> None:
    """Print a receipt as JSON, with all that is needed to verify it. Only its payer gets the salt."""
    with actor.connect() as client:
        found = client.get(f"/v1/receipts/{receipt}")
    if out is None:
        print_json(found)
    else:
        out.write_text(json.dumps(found, indent=2) + "\n")
        typer.echo(f"written to {out}")


@commands.command()
def verify(
    receipt: Annotated[
        str, typer.Argument(help="File written by `show --out`, or the id of a receipt of this installation.")
    ],
    *,
    request: Annotated[
        Path | None,
        typer.Option(help="File with the request's body, byte for byte.", exists=True, dir_okay=False),
    ] = None,
    answer: Annotated[
        Path | None, typer.Option(help="File with the answer's text.", exists=True, dir_okay=False)
    ] = None,
    recomputes: Annotated[
        bool,
        typer.Option(
            "--recompute-attribution", help="Recompute the shares from the index in the adapter's folder."
        ),
    ] = False,
    executes: Annotated[
        bool, typer.Option("--re-execute", help="Compute the answer again; needs --request and --answer.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify a receipt against the chain as indexed in this home. Exit code 1 if something is wrong.

    Needs no API, no node and no running engine. --re-execute starts its own engine, and fetches the adapter
    if it is not stored here.
    """
    with open_installation() as installation:
        loaded = _load_receipt(installation, receipt)
        body = None if request is None else request.read_bytes()
        text = None if answer is None else answer.read_text(encoding="utf-8")
        checks = _checks(installation, loaded, body, text, recomputes=recomputes, executes=executes)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            typer.echo(f"{RESULTS[check.is_right]:6} {check.name:12} {check.message}")
    if any(check.is_right is False for check in checks):
        raise typer.Exit(1)


def _checks(
    installation: Installation,
    receipt: ReceiptFile,
    body: bytes | None,
    answer: str | None,
    *,
    recomputes: bool,
    executes: bool,
) -> list[Check]:
    from backend.installation.verification import Recomputation

    checks = list(installation.verification.checks(receipt))
    recomputation = Recomputation(installation, receipt, body, answer)
    content = recomputation.content()
    if content is not None:
        checks.append(content)
        if content.is_right is False:
            return checks  # the files belong to another receipt, so recomputing them proves nothing
    repeated = recomputation.execute() if executes else None
    if repeated is not None:
        checks.append(recomputation.execution(repeated))
    return [*checks, *(recomputation.attribution(repeated) if recomputes else ())]


def _load_receipt(installation: Installation, receipt: str) -> ReceiptFile:
    from backend.installation.verification import load_receipt
    from backend.services.receipts.receipt_file import parse_receipt

    if _ID.fullmatch(receipt.lower()):
        return load_receipt(installation, ReceiptId(Hash32(receipt.lower())))
    path = Path(receipt)
    if not path.is_file():
        raise NotFound(f"{receipt!r} is neither a file nor the id of a receipt", param="receipt")
    return parse_receipt(path.read_bytes())
