"""Sign-in messages that a wallet signs and refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from backend.client.comparison import SignatureRefused
from backend.domain.errors import InvalidInput
from backend.domain.sign_in_message import STATEMENT, SignInMessage
from tests.support.hostile_market import CHAIN, KEY, Market
from tests.support.market import some_account

MARKET = "https://market.example"


def sign_in_message(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "domain": "market.example",
        "account": KEY.account,
        "uri": MARKET,
        "chain_id": CHAIN,
        "nonce": "12345678",
        "issued_at": datetime(2026, 1, 1, tzinfo=UTC),
        "statement": STATEMENT,
    }
    return SignInMessage(**fields | changes).text()


def test_a_sign_in_names_this_market_this_chain_and_nothing_else() -> None:
    market = Market({})
    assert market.wallet.sign_in(sign_in_message(), MARKET).startswith("0x")
    assert market.statements[0].action == "Sign in"
    for change in (
        {"domain": "other.example"},
        {"uri": "https://other.example"},
        {"uri": f"{MARKET}/path"},
        {"account": some_account("other")},
        {"chain_id": 1},
        {"statement": "I give everything to the market."},
        {"statement": None},
    ):
        with pytest.raises(SignatureRefused):
            market.wallet.sign_in(sign_in_message(**change), MARKET)
    for more in ("\nRequest ID: 7", "\nResources:\n- urn:recap:everything"):
        with pytest.raises(SignatureRefused, match="says something else"):
            market.wallet.sign_in(sign_in_message() + more, MARKET)
    with pytest.raises(InvalidInput):
        market.wallet.sign_in("Give everything to the market.", MARKET)
    assert len(market.statements) == 1
