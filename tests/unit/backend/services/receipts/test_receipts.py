from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.hashing import receipt_id
from backend.domain.ids import Hash32
from backend.domain.settlement import BatchState
from backend.services.receipts.receipts import Receipts, ReceiptView
from tests.support.chain_view import batches_read
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle_batches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.receipt import SignedReceipt


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()


def state_of(harness: SettlementHarness, signed: SignedReceipt) -> BatchState | None:
    found = Receipts(harness.db).find(Hash32(receipt_id(signed.receipt)))
    assert isinstance(found, ReceiptView)
    return found.batch_state


def test_a_receipt_has_the_state_of_its_batch(harness: SettlementHarness) -> None:
    unsettled = harness.serve()
    assert state_of(harness, unsettled) is None
    first, second = settle_batches(harness, 2, answers=1)
    assert state_of(harness, second) is BatchState.COMMITTED
    harness.chain.final = 1
    assert [state_of(harness, signed) for signed in (first, second)] == [
        BatchState.FINAL,
        BatchState.COMMITTED,
    ]
    harness.chain.convict(2)
    assert state_of(harness, second) is BatchState.VOID


def test_a_lookup_reads_the_batch_of_the_receipt_alone(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator commits some fifty thousand in a year."""
    receipts = settle_batches(harness, 5, answers=1)
    read = batches_read(harness.chain, monkeypatch)
    state_of(harness, receipts[1])
    assert read == [2]
