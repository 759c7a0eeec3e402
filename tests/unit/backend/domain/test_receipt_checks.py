from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.batch import CommitTerms, spans_hash
from backend.domain.receipt_checks import is_in_place
from tests.support.market import Market, some_hash

if TYPE_CHECKING:
    from backend.domain.batch import Batch, Header


@pytest.fixture
def batch() -> Batch:
    market = Market()
    return market.batch(market.receipts(9))


def header_of(batch: Batch) -> Header:
    return batch.header(CommitTerms(1, 2), some_hash("data"))


def test_every_receipt_of_a_batch_is_in_its_place(batch: Batch) -> None:
    header = header_of(batch)
    for index, signed in enumerate(batch.receipts):
        assert is_in_place(signed.receipt, header, batch.spans, batch.open_receipt(index))


@pytest.mark.parametrize("field", ["receipts_root", "total", "spans_hash"])
def test_a_header_of_another_tree_or_other_spans_proves_no_place(batch: Batch, field: str) -> None:
    header = header_of(batch)
    other = header.total + 1 if field == "total" else some_hash("other")
    changed = replace(header, **{field: other})
    assert not is_in_place(batch.receipts[0].receipt, changed, batch.spans, batch.open_receipt(0))


def test_a_receipt_that_its_batchs_spans_put_elsewhere_is_not_in_place(batch: Batch) -> None:
    receipt = batch.receipts[-1].receipt
    *others, own = batch.spans
    assert own.channel_id == receipt.channel_id
    spans = (*others, replace(own, start=own.start + 1, until=own.until + 1))
    header = replace(header_of(batch), spans_hash=spans_hash(spans))
    assert not is_in_place(receipt, header, spans, batch.open_receipt(len(batch.receipts) - 1))
