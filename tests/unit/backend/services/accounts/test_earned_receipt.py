from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.earnings import EarningState, Role
from backend.domain.errors import NotFound
from backend.domain.hashing import receipt_id
from backend.domain.money import PPM
from backend.domain.registries import Operator
from backend.services.accounts.credit_walk import EarningsQuery
from backend.services.accounts.earned_receipt import NothingEarned, ReceiptNotCredited
from backend.services.audit.auditor import WrongBatch
from tests.support.chain_view import batches_read
from tests.support.market import some_account, some_hash
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle, settle_batches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import ReceiptId

TREASURY, CREATOR = some_account("treasury"), some_account("creator 1")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path, max_price=500_000)
    yield harness
    harness.database.close()


def settled_receipt(harness: SettlementHarness) -> ReceiptId:
    (signed,) = settle_batches(harness, 1, answers=1)
    return receipt_id(signed.receipt)


def test_the_parts_of_a_receipt_are_its_entries_and_sum_up_to_the_charge(harness: SettlementHarness) -> None:
    receipts = settle_batches(harness, 1, answers=5)
    for signed in receipts:
        receipt = receipt_id(signed.receipt)
        found = harness.earned_receipts().get(TREASURY, receipt)
        parts = [part for one in found.slices for part in one.parts]
        assert sum(part.amount for part in parts) == signed.receipt.charge
        assert [sum(part.amount for part in one.parts) for one in found.slices] == [
            one.charge for one in found.slices
        ]
        entries = harness.earnings().entries(EarningsQuery(TREASURY), None, 1000).entries
        mine = [entry.earning for entry in entries if entry.earning.receipt_id == receipt]
        assert found.amount == sum(earning.amount for earning in mine)
        assert found.ppm == found.amount * PPM // signed.receipt.charge
        for one, slice_ in zip(found.slices, signed.slices, strict=True):
            roles = [part.role for part in one.parts]
            count = len(slice_.shares)
            assert roles == [
                *(Role.FEE, Role.OPERATOR, Role.CREATOR),
                *([Role.CONTRIBUTOR] * count or [Role.POOL]),
            ]
            assert [part.share_ppm for part in one.parts[3:]] == ([s.ppm for s in slice_.shares] or [None])
            assert all((part.datanet is not None) == bool(count) for part in one.parts[3:])


def test_a_receipt_names_its_batch_and_its_proof(harness: SettlementHarness) -> None:
    receipt = settled_receipt(harness)
    found = harness.earned_receipts().get(TREASURY, receipt)
    assert (found.batch.number, found.state) == (1, EarningState.PENDING)
    assert found.data_cid.startswith("bafy")
    assert found.proof_url is None
    harness.chain.others.append(Operator(found.batch.operator, "https://operator.example/", (), 0))
    served = harness.earned_receipts().get(TREASURY, receipt)
    assert served.proof_url == f"https://operator.example/v1/receipts/{receipt}/proof"


def test_states_of_a_receipt_are_those_of_its_batch(harness: SettlementHarness) -> None:
    receipt = receipt_id(settle_batches(harness, 1, answers=9)[0].receipt)
    harness.chain.time += 60
    harness.settler().finalise()
    harness.mine()
    assert harness.earned_receipts().get(TREASURY, receipt).state is EarningState.FINAL
    harness.claims().relay(harness.market.operator, TREASURY)
    harness.mine()
    assert harness.earned_receipts().get(TREASURY, receipt).state is EarningState.CLAIMED


def test_a_voided_receipt_is_shown_to_an_account_that_it_would_have_paid(harness: SettlementHarness) -> None:
    harness.sign_in(TREASURY)
    receipt = settled_receipt(harness)
    harness.auditor().follow(harness.market.operator)
    harness.chain.convict(1)
    harness.settler().run_once()
    assert harness.earned_receipts().get(TREASURY, receipt).state is EarningState.VOID
    with pytest.raises(ReceiptNotCredited, match="is in no valid batch yet"):
        harness.earned_receipts().get(some_account("operator"), receipt)
    settle(harness)
    again = harness.earned_receipts().get(TREASURY, receipt)
    assert (again.state, again.batch.number) == (EarningState.PENDING, 1)


def test_a_lookup_reads_the_batch_of_the_receipt_and_the_newest_alone(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = settle_batches(harness, 5, answers=1)
    harness.auditor().follow(harness.market.operator)
    read = batches_read(harness.chain, monkeypatch)
    harness.earned_receipts().get(TREASURY, receipt_id(receipts[1].receipt))
    assert set(read) == {2, 5}


def test_an_unknown_receipt_is_refused(harness: SettlementHarness) -> None:
    settled_receipt(harness)
    with pytest.raises(NotFound, match="name one that paid"):
        harness.earned_receipts().get(TREASURY, some_hash("receipt"))


def test_a_receipt_that_paid_others_only_is_refused_by_name(harness: SettlementHarness) -> None:
    receipt = settled_receipt(harness)
    with pytest.raises(NothingEarned, match=f"paid {some_account('nobody')} nothing"):
        harness.earned_receipts().get(some_account("nobody"), receipt)


def test_a_receipt_without_a_batch_is_not_credited(harness: SettlementHarness) -> None:
    receipt = receipt_id(harness.serve().receipt)
    with pytest.raises(ReceiptNotCredited):
        harness.earned_receipts().get(TREASURY, receipt)


def test_nothing_is_shown_of_a_batch_that_is_wrong(harness: SettlementHarness) -> None:
    receipt = settled_receipt(harness)
    (batch,) = harness.chain.committed
    batch.header["balancesRoot"] = some_hash("other balances")
    with pytest.raises(WrongBatch):
        harness.earned_receipts().get(TREASURY, receipt)
