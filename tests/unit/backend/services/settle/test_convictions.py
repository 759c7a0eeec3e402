"""Effects of a conviction: receipts are quarantined, and the same trees are not built again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.batch import Header
from backend.domain.disputes.witnesses import Fault, receipt_abi
from backend.domain.hashing import receipt_id
from backend.services.settle.settler import Step
from tests.support.market import some_hash
from tests.support.settlement_steps import assert_all_settled, convict, settle, settle_batches, settled

if TYPE_CHECKING:
    from tests.support.settlement_harness import SettlementHarness


@pytest.mark.parametrize(
    ("proof", "fault"), [("proveBadReceipt", Fault.PRICE), ("proveBadPosition", Fault.POSITION)]
)
def test_a_convicted_receipt_is_quarantined_and_blocks_only_the_rest_of_its_channel(
    harness: SettlementHarness, proof: str, fault: Fault
) -> None:
    channel, other = harness.market.channels[:2]
    receipts = [harness.serve(channel) for _ in range(3)] + [harness.serve(other)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, proof, fault, receipts[1])
    settle(harness)
    assert {receipt_id(s.receipt) for s in settled(harness)} == {
        receipt_id(s.receipt) for s in (receipts[0], receipts[3])
    }
    skipped = harness.settler().run_once(is_forced=True).skipped[channel]
    assert f"convicted by {proof} ({fault.name.lower()}) in batch 1" in skipped
    assert receipt_id(receipts[1].receipt) in skipped
    harness.sign_voucher(channel, receipts[2].receipt.cumulative, waived_until=receipts[1].receipt.cumulative)
    settle(harness)
    assert settled(harness)[-1] == receipts[2]


def test_a_convicted_receipt_that_no_other_follows_is_not_due(harness: SettlementHarness) -> None:
    channel = harness.market.channels[0]
    first, guilty = (harness.serve(channel) for _ in range(2))
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    settle(harness)
    assert settled(harness) == [first]
    with harness.read() as tx:
        assert tx.receipts.backlogs(harness.market.operator) == []
    assert harness.settler().run_once(is_forced=True).step is Step.IDLE


def test_a_convicted_receipt_stays_quarantined_when_other_batches_are_final(
    harness: SettlementHarness,
) -> None:
    channel, other = harness.market.channels[:2]
    harness.serve(other)
    guilty = harness.serve(channel)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.LIST, guilty)
    settle(harness)
    harness.chain.time += 60
    harness.settler().run_once()
    assert harness.mine() == 1
    assert harness.chain.final == 1
    settle(harness)
    assert receipt_id(guilty.receipt) not in {receipt_id(s.receipt) for s in settled(harness)}


def test_a_reorganised_void_clears_its_convictions(harness: SettlementHarness) -> None:
    receipts = settle_batches(harness, 1, answers=3)
    fork = harness.chain.fork()
    convict(harness, "proveBadReceipt", Fault.PRICE, receipts[0])
    settle(harness)
    harness.chain.return_to(fork)
    settle(harness)
    harness.chain.convict(1)
    settle(harness)
    assert_all_settled(harness, receipts)


@pytest.mark.parametrize(
    ("proof", "fault"),
    [
        ("proveWrongEntry", None),
        ("proveWrongBalance", None),
        ("proveBelowClaimed", None),
        ("proveZeroLeaf", None),
        ("proveBadReceipt", Fault.PLACE),
    ],
)
def test_a_batch_equal_to_a_convicted_one_is_not_committed(
    harness: SettlementHarness, proof: str, fault: Fault | None
) -> None:
    settle_batches(harness, 2)
    harness.chain.convict(2, proof, fault, None if fault is None else 0)
    settle(harness)
    harness.serve()
    progress = harness.settler().run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert f"batch 2 was convicted by {proof}" in progress.reason
    assert harness.chain.unrefunded() == []
    assert harness.chain.standing() == []
    assert harness.mine() == 0


def test_trees_that_we_would_not_build_so_may_be_built_rightly(harness: SettlementHarness) -> None:
    """The convicted batch was built by software that has since been fixed."""
    receipts = settle_batches(harness, 1)
    wrong = harness.chain.committed[0]
    header = dict(wrong.header) | {"entriesRoot": some_hash("another root")}
    batch_hash = Header.from_chain(header).hash
    harness.chain.committed[0] = replace(wrong, header=header, hash=batch_hash)
    harness.chain._spans_of[batch_hash] = harness.chain._spans_of.pop(wrong.hash)
    harness.chain.convict(1, "proveWrongEntry")
    settle(harness)
    assert_all_settled(harness, receipts)


def test_nothing_is_settled_while_the_data_of_a_convicted_batch_cannot_be_read(
    harness: SettlementHarness,
) -> None:
    (guilty,) = settle_batches(harness, 1, answers=1)
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    harness.settler().run_once(is_forced=True)
    harness.mine()
    header = dict(harness.chain.committed[0].header) | {"dataDigest": some_hash("nowhere")}
    harness.chain.committed[0] = replace(harness.chain.committed[0], header=header)
    harness.serve()
    progress = harness.settler().run_once(is_forced=True)
    assert progress.step is Step.REFUSED
    assert "cannot be read" in progress.reason


def test_a_receipt_that_the_convicting_call_names_is_quarantined_without_the_data(
    harness: SettlementHarness,
) -> None:
    guilty, other = (harness.serve(channel) for channel in harness.market.channels[:2])
    harness.settler().run_once(is_forced=True)
    harness.mine()
    convict(harness, "proveBadReceipt", Fault.PRICE, guilty)
    batch = harness.chain.committed[0]
    assert batch.conviction is not None
    witness = {"receipt": receipt_abi(guilty.receipt)}
    harness.settler().run_once(is_forced=True)
    harness.mine()
    header = dict(batch.header) | {"dataDigest": some_hash("nowhere")}
    batch_hash = Header.from_chain(header).hash
    conviction = replace(batch.conviction, convicted=batch_hash)
    lost = replace(harness.chain.committed[0], header=header, hash=batch_hash, conviction=conviction)
    call = {"contract": "Disputes", "function": "proveBadReceipt"}
    harness.chain.calls[conviction.tx_hash] = call | {"args": {"header": header, "witness": witness}}
    harness.chain.committed[0] = lost
    harness.chain._spans_of[batch_hash] = harness.chain._spans_of.pop(batch.hash)
    settle(harness)
    assert settled(harness) == [other]
