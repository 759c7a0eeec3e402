"""The command line's client against the API of a test, and the wallet of its payer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.cli.actor import Actor
from backend.client.api import ApiClient, PublicClient
from backend.client.keystore import LocalKey
from backend.client.signing import Wallet
from backend.domain.deployment import Deployment
from backend.domain.hashing import keccak
from tests.support.market import CHAIN_ID, some_account, some_hash

if TYPE_CHECKING:
    import pytest

    from backend.client.signing import Approve
    from tests.integration.api.conftest import Api

PAYER_KEY = keccak(b"payer")
CONTRACTS = ("PaymentVault", "PaymentToken", "DatasetRegistry", "AdapterRegistry")


def scripted_deployment() -> Deployment:
    """Of a `ScriptedInstallation`."""
    addresses = {name: some_account(name) for name in CONTRACTS} | {"Settlement": some_account("settlement")}
    return Deployment(CHAIN_ID, 1, some_hash("block"), addresses)


def payer_client(api: Api, approve: Approve = lambda _: None) -> ApiClient:
    """Not signed in."""
    wallet = Wallet(LocalKey(PAYER_KEY), scripted_deployment(), approve)
    return ApiClient(api.url, wallet, is_own=True)


def loopback_client(url: str) -> ApiClient:
    """For a server that a test made, which is asked for no signature."""
    return ApiClient(url, Wallet(LocalKey(PAYER_KEY), scripted_deployment(), lambda _: None))


def act_as_payer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the API of the test, and sign with its payer's key without asking."""
    monkeypatch.setattr(Actor, "connect", lambda _: payer_client(api).sign_in())
    monkeypatch.setattr(Actor, "browse", lambda _: PublicClient(api.url, is_own=True))
