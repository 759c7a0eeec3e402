from __future__ import annotations

from typing import Any

import pytest
from eth_account.messages import encode_typed_data

from backend.domain.eip712 import DOMAIN_FIELDS, build_typed_data, separator
from backend.domain.hashing import TypedDomain, to_hash
from tests.support.market import CHAIN_ID, some_account, some_hash

VALUES = {
    "name": "Coin",
    "version": "2",
    "chainId": CHAIN_ID,
    "verifyingContract": some_account("token"),
    "salt": some_hash("salt"),
}


@pytest.mark.parametrize("bits", range(1, 1 << len(DOMAIN_FIELDS)))
def test_a_domain_of_any_fields_is_hashed_as_wallets_hash_it(bits: int) -> None:
    domain: dict[str, Any] = {name: VALUES[name] for i, name in enumerate(DOMAIN_FIELDS) if bits >> i & 1}
    wallets = encode_typed_data(full_message=build_typed_data(domain, "Ask(uint256 value)", {"value": "7"}))
    assert separator(domain) == to_hash(wallets.header)


def test_typed_domain_has_the_same_separator() -> None:
    ours = TypedDomain(CHAIN_ID, some_account("vault"))
    assert separator(ours.fields) == to_hash(ours.separator)
