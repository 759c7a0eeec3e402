"""What a market answers is compared with the id that the payer asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.client.api import PublicClient
from backend.client.errors import NotAMarket
from backend.client.pending_receipts import fetch_receipt
from tests.support.answering import JSON, answering
from tests.support.market import Market
from tests.support.receipt_files import following_a_charge

if TYPE_CHECKING:
    from collections.abc import Iterator

Document = dict[str, Any]


@pytest.fixture
def receipts() -> tuple[Document, Document]:
    """Two receipts of one channel, each of which followed a charge."""
    market = Market()
    first, second = (following_a_charge(market.serve()) for _ in range(2))
    return first, second


def fetched(answer: Document, number: str) -> Document:
    with answering(200, JSON, json.dumps(answer)) as url, PublicClient(url) as client:
        return fetch_receipt(client, number, pytest.fail)


def ids(receipt: Document) -> Iterator[str]:
    yield from (receipt["id"], receipt["signed_charge"]["id"])


def test_a_receipt_is_found_by_its_id_and_by_its_charges(receipts: tuple[Document, Document]) -> None:
    for number in ids(receipts[0]):
        assert fetched(receipts[0], number) == receipts[0]
        assert fetched(receipts[0], number.upper().replace("X", "x")) == receipts[0]


def test_another_receipt_than_was_asked_for_is_refused(receipts: tuple[Document, Document]) -> None:
    first, second = receipts
    for number in ids(first):
        claimed = {"id": number, "signed_charge": second["signed_charge"] | {"id": number}}
        for answer in (second, second | claimed, second | {"signed_charge": None}):
            with pytest.raises(NotAMarket, match=f"another receipt than that of {number}"):
                fetched(answer, number)
