from __future__ import annotations

import pytest

from backend.chain.keys import recover
from backend.domain.errors import InvalidInput
from backend.domain.hashing import keccak
from backend.services.transactions.consent import Consent
from tests.support.fakes import FakeContractWallets, some_key
from tests.support.market import some_account

KEY, CONTRACT = some_key("key"), some_account("contract")
DIGEST = keccak(b"message")


@pytest.fixture
def consent() -> Consent:
    return Consent(recover, FakeContractWallets({CONTRACT: "0xab"}))


def test_a_key_signs_for_its_own_account(consent: Consent) -> None:
    assert consent.refusal(KEY.account, DIGEST, KEY.sign(DIGEST)) is None
    refusal = consent.refusal(some_account("x"), DIGEST, KEY.sign(DIGEST))
    assert refusal == f"{KEY.account} signed, not {some_account('x')}"


def test_a_contract_has_signatures_of_any_form(consent: Consent) -> None:
    assert consent.refusal(CONTRACT, DIGEST, "0xab") is None
    assert "EIP-1271" in str(consent.refusal(CONTRACT, DIGEST, KEY.sign(DIGEST)))


def test_a_malformed_signature_is_no_keys(consent: Consent) -> None:
    with pytest.raises(InvalidInput, match="malformed"):
        consent.refusal(some_account("x"), DIGEST, "0xab")
