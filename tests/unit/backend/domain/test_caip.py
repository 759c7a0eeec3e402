from __future__ import annotations

import pytest

from backend.domain.caip import account_name, account_of, chain_name
from backend.domain.errors import InvalidInput
from tests.support.market import some_account


def test_chains_and_accounts_are_named_as_wallets_name_them() -> None:
    account = some_account("payer")
    assert chain_name(1) == "eip155:1"
    assert account_name(31337, account) == f"eip155:31337:{account}"


@pytest.mark.parametrize("text", ["0x" + "aB" * 20, "eip155:31337:0x" + "Ab" * 20])
def test_an_account_is_found_by_its_address_or_its_name_on_the_chain(text: str) -> None:
    assert account_of(text, 31337) == "0x" + "ab" * 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"eip155:1:0x{'ab' * 20}", "of chain eip155:1; this is eip155:31337"),
        (f"solana:31337:0x{'ab' * 20}", "not an account"),
        (f"eip155:31337:{'ab' * 20}", "not an account"),
        ("eip155:31337:", "not an account"),
        (f"0x{'ab' * 20} ", "not an account"),
        ("", "not an account"),
    ],
)
def test_whatever_is_no_account_of_this_chain_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        account_of(text, 31337)
