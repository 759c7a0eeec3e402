from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.batch import CommitTerms, OperatorLedger
from backend.domain.disputes.proofs import EquivocationProof
from backend.domain.judging.case import Case, Wrong
from backend.domain.judging.judge import judge
from tests.support.market import Key, Market, recover, some_hash

if TYPE_CHECKING:
    from backend.domain.receipt import SignedReceipt


@pytest.fixture
def market() -> Market:
    return Market(seed=3)


def found(market: Market, receipts: list[SignedReceipt], *evidence: SignedReceipt) -> Wrong | None:
    def is_signed(signed: SignedReceipt) -> bool:
        return recover(market.domain.receipt_digest(signed.receipt), signed.signature) == key

    key, batch = market.receipt_key.account, market.batch(receipts)
    header = batch.header(CommitTerms(1, 2), some_hash("data"))
    case = Case(header, None, batch.spans, batch.receipts, OperatorLedger(), evidence=evidence)
    judged = judge(case, market, market.terms, is_signed)
    return judged if isinstance(judged, Wrong) else None


def twin(market: Market, signed: SignedReceipt, **changes: object) -> SignedReceipt:
    """Another receipt with the operator's signature."""
    return market.sign(replace(signed.receipt, **changes), signed.slices)  # type: ignore[arg-type]


def test_an_overlapping_receipt_convicts(market: Market) -> None:
    receipts = market.receipts(5)
    other = twin(market, receipts[3], response_hash=some_hash("another answer"))
    wrong = found(market, receipts, other)
    assert wrong is not None
    assert (wrong.finding.what, wrong.finding.receipt) == ("double_signed", 3)
    assert wrong.finding.unit == sum(s.receipt.charge for s in receipts[:3])
    assert isinstance(wrong.proof, EquivocationProof)
    assert (wrong.proof.receipt, wrong.proof.other) == (receipts[3].receipt, other.receipt)


def test_an_overlap_by_one_micro_unit_convicts_and_adjacency_does_not(market: Market) -> None:
    channel = market.channels[0]
    first, second = market.serve(channel), market.serve(channel)
    end = second.receipt.cumulative
    touching = twin(market, second, cumulative=end + 7, charge=7)
    overlapping = twin(market, second, cumulative=end + 6, charge=7)
    assert found(market, [first, second], touching) is None
    assert found(market, [first, second], overlapping) is not None


def test_the_same_receipt_is_no_equivocation(market: Market) -> None:
    receipts = market.receipts(3)
    assert found(market, receipts, *receipts) is None


def test_receipts_without_charge_or_of_another_channel_do_not_convict(market: Market) -> None:
    channel, elsewhere = market.channels[:2]
    signed = market.serve(channel)
    free = twin(market, signed, charge=0, cumulative=signed.receipt.cumulative - 1)
    foreign = twin(market, signed, channel_id=elsewhere)
    assert found(market, [signed], free, foreign) is None


def test_receipts_that_the_operator_did_not_sign_do_not_convict(market: Market) -> None:
    signed = market.serve()
    receipt = replace(signed.receipt, response_hash=some_hash("another answer"))
    forged = replace(
        signed, receipt=receipt, signature=Key("forger").sign(market.domain.receipt_digest(receipt))
    )
    assert found(market, [signed], forged) is None
