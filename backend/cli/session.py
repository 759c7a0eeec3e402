"""Connects a command to the installation in its home: API client, installation, common options."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.caip import account_of
from backend.domain.errors import NotFound
from backend.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.cli.api_client import ApiClient
    from backend.domain.ids import Account
    from backend.installation.installation import Installation

PORTS_FILE = "run/ports.json"

User = Annotated[
    int, typer.Option("--user", help="Index of the local test account that signs.", min=0, max=8)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_client(user: int) -> ApiClient:
    """Sign a test account in at the stack that `loraledger up` runs in this home.

    Errors: `NotFound` if `loraledger up` never ran here.
    """
    from backend.cli.api_client import ApiClient
    from backend.cli.wallet import Wallet
    from backend.installation.local_network import well_known_accounts

    home = load_settings().home
    if (ports := _read_ports(home)) is None:
        raise NotFound(f"nothing runs in this home (no {home / PORTS_FILE}); start `loraledger up`")
    wallet = Wallet(well_known_accounts()[user].private_key, f"http://127.0.0.1:{ports['chain']}")
    return ApiClient(f"http://127.0.0.1:{ports['api']}", wallet).sign_in()


def _read_ports(home: Path) -> dict[str, int] | None:
    """Ports of chain and API under the current or the last `loraledger up`."""
    path = home / PORTS_FILE
    found: dict[str, int] | None = json.loads(path.read_text()) if path.is_file() else None
    return found


@contextmanager
def open_installation() -> Iterator[Installation]:
    """Open the installation in this home, for commands that need no API. Where LORALEDGER_RPC_URL is not set,
    its chain is the one of `loraledger up`.
    """
    from backend.installation.installation import Installation

    settings = load_settings()
    ports = None if "rpc_url" in settings.model_fields_set else _read_ports(settings.home)
    if ports is not None:
        settings = settings.model_copy(update={"rpc_url": f"http://127.0.0.1:{ports['chain']}"})
    installation = Installation(settings)
    try:
        yield installation
    finally:
        installation.close()


def parse_account(installation: Installation, text: str) -> Account:
    """Parse an address or a CAIP-10 account. Errors: `InvalidInput`, also for an account of another chain."""
    return account_of(text, installation.deployment.chain_id)


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
