from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.client.receipt_file import parse_receipt
from backend.domain.errors import InvalidInput
from backend.domain.hashing import receipt_id
from tests.support.market import Market, some_account, some_hash
from tests.support.receipt_files import receipt_file

if TYPE_CHECKING:
    from backend.domain.receipt import SignedReceipt


@pytest.fixture
def signed() -> SignedReceipt:
    return Market().serve()


@pytest.fixture
def fields(signed: SignedReceipt) -> dict[str, Any]:
    return receipt_file(signed)


def test_a_receipt_from_the_api_is_parsed_without_loss(signed: SignedReceipt, fields: dict[str, Any]) -> None:
    found = parse_receipt(json.dumps(fields).encode())
    assert found.signed == signed
    assert (found.id, found.operator) == (receipt_id(signed.receipt), some_account("operator"))
    assert found.salt == some_hash("salt")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "0x12"},
        {"operator": None},
        {"receipt": {}},
        {"slices": []},
        {"slices": [{"version_id": some_hash("v"), "weight_ppm": -1, "packed": "0x"}]},
        {"slices": [{"version_id": some_hash("v"), "weight_ppm": 1, "packed": "0x12"}]},
        {"method": "a method"},
        {"signature": "0x"},
        {"salt": 7},
    ],
)
def test_a_malformed_field_is_refused_by_name(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="not a receipt"):
        parse_receipt(json.dumps(fields | changes).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"x":' * 100_000])
def test_a_receipt_that_is_not_a_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a receipt"):
        parse_receipt(text)
