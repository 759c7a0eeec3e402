"""A command's way to a running installation: its API, its chain, and one of the local test wallets."""

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

    from backend.cli.client import Market
    from backend.domain.ids import Account
    from backend.installation.installation import Installation

PORTS_FILE = "run/ports.json"

User = Annotated[
    int, typer.Option("--user", help="Index of the local test account that signs.", min=0, max=8)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_market(user: int) -> Market:
    """Signed in at the stack that `loraledger up` runs in this home. Errors: `NotFound` if none ever did."""
    from backend.cli.client import Market
    from backend.cli.wallet import Wallet
    from backend.installation.local_network import well_known_accounts

    home = load_settings().home
    if (ports := _ports(home)) is None:
        raise NotFound(f"nothing runs in this home (no {home / PORTS_FILE}); start `loraledger up`")
    wallet = Wallet(well_known_accounts()[user].private_key, f"http://127.0.0.1:{ports['chain']}")
    return Market(f"http://127.0.0.1:{ports['api']}", wallet).sign_in()


def _ports(home: Path) -> dict[str, int] | None:
    """Where `loraledger up` has, or had, chain and API."""
    path = home / PORTS_FILE
    found: dict[str, int] | None = json.loads(path.read_text()) if path.is_file() else None
    return found


@contextmanager
def open_installation() -> Iterator[Installation]:
    """What lies in this home, for commands that need no API; with the chain that `loraledger up` runs in it,
    where no setting names another.
    """
    from backend.installation.installation import Installation

    settings = load_settings()
    ports = None if "rpc_url" in settings.model_fields_set else _ports(settings.home)
    if ports is not None:
        settings = settings.model_copy(update={"rpc_url": f"http://127.0.0.1:{ports['chain']}"})
    installation = Installation(settings)
    try:
        yield installation
    finally:
        installation.close()


def account(installation: Installation, text: str) -> Account:
    """As an address or by CAIP-10. Errors: `InvalidInput`, for accounts of other chains too."""
    return account_of(text, installation.deployment.chain_id)


def show(found: object) -> None:
    typer.echo(json.dumps(found, indent=2))
