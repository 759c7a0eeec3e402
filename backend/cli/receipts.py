"""`loraledger receipts`: list, show and verify receipts."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.actor import PAYER, Actor, DeploymentOption, acting, taking
from backend.cli.amounts import dollars
from backend.cli.extras import OPERATOR, is_installed, require
from backend.cli.output import AsJson, echo, note_if_empty, print_json
from backend.disk.files import write_durably
from backend.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from backend.domain.ids import ChargeId
    from backend.domain.receipt_checks import Check

_ID = re.compile("0x[0-9a-f]{64}")
RESULTS = {True: "right", False: "WRONG", None: "open"}


@dataclass(frozen=True, slots=True)
class Standalone:
    """Options of a verification without an index of the chain."""

    is_asked: bool
    deployment: str
    rpc_url: str


STANDALONE_OPTIONS: dict[str, Any] = {
    "is_asked": Annotated[
        bool,
        typer.Option(
            "--standalone",
            help="Verify without an index of the chain: by the file and the record of --deployment, and with "
            "--rpc-url by a node. The light install always does.",
        ),
    ],
    "deployment": DeploymentOption,
    "rpc_url": Annotated[
        str, typer.Option("--rpc-url", envvar="ETH_RPC_URL", help="Node that --standalone asks.")
    ],
}
standing_alone = taking("alone", STANDALONE_OPTIONS, lambda values: Standalone(**values), {"is_asked": False})

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
    note_if_empty(found, "no receipts yet; each answer has one")
    for receipt in found:
        batch = "no batch yet" if receipt["batch"] is None else f"batch {receipt['batch']}"
        echo(f"{receipt['id']}  {dollars(receipt['charge']):>22}  {batch}")


@commands.command("show")
@acting(PAYER)
def show_receipt(
    receipt: Annotated[str, typer.Argument(help="Id of the receipt, or of its charge.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, for `verify`.")] = None,
    actor: Actor,
) -> None:
    """Print a receipt as JSON, with all that is needed to verify it. Only its payer gets the salt.

    Waits for a receipt that is not signed yet, until it is due, and with --out while the market audits its
    batch, five minutes at most. Without a proof, as before the receipt has a batch, it says so and writes the
    file; some checks stay open.
    """
    from backend.client.evidence import fetch_evidence
    from backend.client.pending_receipts import fetch_receipt

    say = partial(echo, err=True)
    with actor.connect() as client:
        found = fetch_receipt(client, receipt, say)
        if out is not None:
            found["evidence"] = fetch_evidence(client, found, say)
    if out is None:
        print_json(found)
    else:
        _write(out, json.dumps(found, indent=2) + "\n")
        echo(f"written to {out}")


def _write(out: Path, text: str) -> None:
    """Replace a regular file as a whole; anything else, such as `/dev/stdout`, is written to."""
    if out.is_symlink() or (out.exists() and not out.is_file()):
        out.write_text(text)
    else:
        write_durably(out, text, is_private=True)


@commands.command()
@standing_alone
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
    charge: Annotated[
        str, typer.Option(metavar="ID", help="Id of the charge that came with the answer, if one did.")
    ] = "",
    recomputes: Annotated[
        bool,
        typer.Option(
            "--recompute-attribution", help="Recompute the shares from the index in the adapter's folder."
        ),
    ] = False,
    executes: Annotated[
        bool, typer.Option("--re-execute", help="Compute the answer again; needs --request and --answer.")
    ] = False,
    alone: Standalone,
    as_json: AsJson = False,
) -> None:
    """Verify a receipt against the chain as indexed in this home. Exit code 1 if something is wrong.

    Needs no API, no node and no running engine. --re-execute starts its own engine, and fetches the adapter
    if it is not stored here. --standalone needs no index: without a node, what only the chain knows is open.
    """
    charge_got = _parse_charge_id(charge) if charge else None
    body = None if request is None else request.read_bytes()
    text = None if answer is None else _read_text(answer)
    if recomputes or executes:
        require("computing an answer or its attribution again", OPERATOR)
    if alone.is_asked or not is_installed(OPERATOR):
        if recomputes or executes:
            raise InvalidInput("--standalone computes nothing again", param="standalone")
        checks = _standalone_checks(Path(receipt), charge_got, body, text, alone)
    else:
        from backend.cli.operator.verification import indexed_checks

        checks = indexed_checks(receipt, charge_got, body, text, recomputes=recomputes, executes=executes)
    _report(checks, as_json=as_json)


def _report(checks: list[Check], *, as_json: bool) -> None:
    """Print the checks; exit with code 1 if one is wrong."""
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            echo(f"{RESULTS[check.is_right]:6} {check.name:12} {check.message}")
    if any(check.is_right is False for check in checks):
        raise typer.Exit(1)


def _parse_charge_id(text: str) -> ChargeId:
    """Errors: `typer.BadParameter`."""
    from backend.domain.ids import ChargeId, Hash32

    if not _ID.fullmatch(text.lower()):
        raise typer.BadParameter("an id is 0x and 64 hex digits", param_hint="--charge")
    return ChargeId(Hash32(text.lower()))


def _read_text(path: Path) -> str:
    """Errors: `InvalidInput` for bytes that are not UTF-8."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not text in UTF-8: {error}", param="answer") from error


def _standalone_checks(
    path: Path, charge: ChargeId | None, body: bytes | None, answer: str | None, alone: Standalone
) -> list[Check]:
    from backend.client.deployments import pinned_deployment
    from backend.client.node import Node
    from backend.client.receipt_file import parse_with_evidence
    from backend.client.receipts import ReceiptVerification
    from backend.domain.receipt_checks import stated_content_check

    if not path.is_file():
        raise NotFound(f"no file {path}: write one with `loraledger receipts show --out`", param="receipt")
    file, evidence = parse_with_evidence(path.read_bytes())
    content = stated_content_check(file, body, answer)
    record = pinned_deployment(alone.deployment)
    with Node(alone.rpc_url, record) if alone.rpc_url else nullcontext() as node:
        if node is not None:
            node.check()
        checks = ReceiptVerification(file, evidence, record, node).checks(charge)
    return [*checks, *([content] if content else [])]
