from __future__ import annotations

from backend.domain.caip import account_name, chain_name
from tests.support.market import some_account


def test_chains_and_accounts_are_named_as_wallets_name_them() -> None:
    account = some_account("payer")
    assert chain_name(1) == "eip155:1"
    assert account_name(31337, account) == f"eip155:31337:{account}"
