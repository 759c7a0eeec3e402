from __future__ import annotations

import pytest

from backend.domain.caip import account_name, account_of, chain_name
from backend.domain.errors import InvalidInput
from tests.support.market import some_account


def test_chains_and_accounts_have_caip_identifiers() -> None:
    account = some_account("payer")
    assert chain_name(1) == "eip155:1"
    assert account_name(31337, account) == f"eip155:31337:{account}"


@pytest.mark.parametrize("text", ["0x" + "aB" * 20, "eip155:31337:0x" + "Ab" * 20])
def test_an_account_is_parsed_from_an_address_or_a_caip_10_identifier(text: str) -> None:
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
def test_other_text_is_refused_as_an_account(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        account_of(text, 31337)
