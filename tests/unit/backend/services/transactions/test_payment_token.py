from __future__ import annotations

from typing import Any

import pytest

from backend.domain.chain import Reverted
from backend.domain.eip712 import separator
from backend.domain.ids import ZERO_HASH, Account
from backend.services.transactions.payment_token import PaymentToken
from tests.support.market import CHAIN_ID, some_account, some_hash

OWNER, TOKEN = some_account("owner"), some_account("PaymentToken")
DOMAIN = {"name": "Coin", "version": "2", "chainId": CHAIN_ID, "verifyingContract": TOKEN}
SALTED = {"name": "Coin", "verifyingContract": TOKEN, "salt": some_hash("salt")}


class FakeChain:
    """A token with these functions and results; every other call reverts."""

    chain_id = CHAIN_ID

    def __init__(self, **results: Any) -> None:
        self._results = results

    def address(self, contract: str) -> Account:
        return some_account(contract)

    def call(self, contract: str, function: str, *_args: Any) -> Any:
        assert contract == "PaymentToken"
        if function not in self._results:
            raise Reverted(f"no {function}")
        return self._results[function]


def domain(**results: Any) -> dict[str, Any] | None:
    chain: Any = FakeChain(**results)
    return PaymentToken(chain).signing_domain(OWNER)


def test_a_token_without_authorisations_has_no_signing_domain() -> None:
    assert domain(name="Coin", version="2", DOMAIN_SEPARATOR=separator(DOMAIN)) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [("0x0f", DOMAIN), ("0x19", SALTED), ("0x01", {"name": "Coin"})],
)
def test_a_stated_domain_has_the_fields_that_its_bits_name(fields: str, expected: dict[str, Any]) -> None:
    stated = (fields, "Coin", "2", CHAIN_ID, TOKEN, some_hash("salt"), [])
    assert domain(authorizationState=False, eip712Domain=stated) == expected


@pytest.mark.parametrize(("stated", "meant"), [({"version": "2"}, "2"), ({}, "1")])
def test_a_token_that_states_none_is_believed_by_its_separator(stated: dict[str, str], meant: str) -> None:
    expected = DOMAIN | {"version": meant}
    found = domain(authorizationState=False, name="Coin", DOMAIN_SEPARATOR=separator(expected), **stated)
    assert found == expected


@pytest.mark.parametrize("known", [{}, {"name": "Coin"}, {"name": "Coin", "DOMAIN_SEPARATOR": ZERO_HASH}])
def test_a_domain_is_never_guessed(known: dict[str, Any]) -> None:
    assert domain(authorizationState=False, **known) is None
