"""Opens the installation in this home, for commands that need no API."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.client.local_stack import read_urls
from backend.domain.caip import account_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.ids import Account
    from backend.installation.installation import Installation


@contextmanager
def open_installation() -> Iterator[Installation]:
    """Where LORALEDGER_RPC_URL is not set, the installation's chain is the one of `loraledger up`."""
    from backend.installation.installation import Installation
    from backend.settings import load_settings

    settings = load_settings()
    urls = None if "rpc_url" in settings.model_fields_set else read_urls(settings.home)
    if urls is not None:
        settings = settings.model_copy(update={"rpc_url": urls[1]})
    installation = Installation(settings)
    try:
        yield installation
    finally:
        installation.close()


def parse_account(installation: Installation, text: str) -> Account:
    """Parse an address or a CAIP-10 account. Errors: `InvalidInput`, also for an account of another chain."""
    return account_of(text, installation.deployment.chain_id)
