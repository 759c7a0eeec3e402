"""Settlement after a receipt key was retired (finding 4)."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import DatabaseUnavailable
from backend.domain.hashing import receipt_id
from backend.services.settle.retired_keys import RETIRE, pending_retirement, sign_again
from backend.services.settle.settler import Step
from tests.support.databases import impatient_database
from tests.support.market import Key, recover
from tests.support.settlement_steps import (
    CrashingDatabase,
    SimulatedCrash,
    assert_all_settled,
    settle,
    settled,
)

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from backend.services.settle.settler import Settler
    from tests.support.settlement_harness import SettlementHarness

NEXT = Key("next receipt key")


def retire(harness: SettlementHarness) -> None:
    """The next key is registered, and the market's is retired."""
    harness.chain.keys = [NEXT.account]
    harness.chain.retired = {harness.market.receipt_key.account: harness.chain.time}
    harness.chain.time += 1


def settler(harness: SettlementHarness) -> Settler:
    return harness.settler(receipt_key=lambda _: NEXT)


def signer_of(harness: SettlementHarness, signed: SignedReceipt) -> str:
    return recover(harness.market.domain.receipt_digest(signed.receipt), signed.signature)


def queue_retirement(harness: SettlementHarness, database: Database | None = None) -> None:
    with (database or harness.db).begin() as tx:
        operator, key = harness.market.operator, harness.market.receipt_key.account
        tx.transactions.lock_lane(operator)
        tx.transactions.enqueue(operator, "OperatorRegistry", RETIRE, (key,), "retire")


def test_finding4_unsettled_receipts_are_signed_again_and_settled_after_a_retirement(
    harness: SettlementHarness,
) -> None:
    receipts = [harness.serve() for _ in range(5)]
    retire(harness)
    assert settler(harness).run_once(is_forced=True).step is Step.COMMITTING
    harness.mine()
    assert_all_settled(harness, receipts)
    assert {signer_of(harness, signed) for signed in settled(harness)} == {NEXT.account}
    assert [s.receipt for s in settled(harness)] == sorted(
        (s.receipt for s in receipts), key=lambda r: (r.channel_id, r.cumulative)
    )


def test_settled_receipts_keep_the_signature_of_the_retired_key(harness: SettlementHarness) -> None:
    before = [harness.serve() for _ in range(3)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    retire(harness)
    after = [harness.serve() for _ in range(2)]
    settler(harness).run_once(is_forced=True)
    harness.mine()
    assert_all_settled(harness, before + after)
    signers = [signer_of(harness, signed) for signed in settled(harness)]
    assert signers == 3 * [harness.market.receipt_key.account] + 2 * [NEXT.account]


def test_the_receipts_of_a_void_are_signed_again_too(harness: SettlementHarness) -> None:
    receipts = [harness.serve() for _ in range(3)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    retire(harness)
    harness.chain.convict(1)
    for _ in range(6):
        settler(harness).run_once(is_forced=True)
        harness.mine()
    assert_all_settled(harness, receipts)
    assert {signer_of(harness, signed) for signed in settled(harness)} == {NEXT.account}


def test_only_receipts_of_keys_that_are_not_active_are_signed_again(harness: SettlementHarness) -> None:
    first = harness.serve()
    retire(harness)
    assert sign_again(harness.db, harness.market.operator, harness.market.domain, lambda _: NEXT) == 1
    assert sign_again(harness.db, harness.market.operator, harness.market.domain, lambda _: NEXT) == 0
    with harness.begin() as tx:
        stored = tx.receipts.get(receipt_id(first.receipt))
    assert stored is not None
    assert stored.signed.receipt == first.receipt
    assert signer_of(harness, stored.signed) == NEXT.account


def test_nothing_is_committed_while_a_retirement_is_pending(harness: SettlementHarness) -> None:
    receipts = [harness.serve() for _ in range(2)]
    queue_retirement(harness)
    progress = harness.settler().run_once(is_forced=True)
    assert (progress.step, harness.chain.committed) == (Step.RETIRING, [])
    assert harness.market.receipt_key.account in progress.reason
    harness.mine()
    harness.chain.keys = [NEXT.account]
    harness.chain.time += 1
    settler(harness).run_once(is_forced=True)
    harness.mine()
    assert_all_settled(harness, receipts)


def test_nothing_is_committed_before_a_mined_retirement_is_indexed(harness: SettlementHarness) -> None:
    harness.serve()
    queue_retirement(harness)
    harness.mine()
    harness.chain.retired, harness.chain.unindexed = {}, harness.chain.retired
    assert harness.settler().run_once(is_forced=True).step is Step.RETIRING


@pytest.mark.parametrize("is_indexed", [True, False])
@pytest.mark.parametrize("is_queued_here", [True, False])
def test_a_batch_is_not_committed_if_a_key_is_retired_while_it_is_published(
    harness: SettlementHarness, *, is_queued_here: bool, is_indexed: bool
) -> None:
    receipts = [harness.serve() for _ in range(3)]

    class RetiresMeanwhile:
        def __getattr__(self, name: str) -> Any:
            if name == "add_folder":
                if is_queued_here:
                    queue_retirement(harness)
                    harness.mine()
                retire(harness)
                if not is_indexed:
                    harness.chain.retired, harness.chain.unindexed = {}, harness.chain.retired
            return getattr(harness.blobs, name)

    assert harness.settler(blobs=RetiresMeanwhile()).run_once(is_forced=True).step is Step.WAITING
    assert (harness.mine(), harness.chain.committed) == (0, [])
    harness.chain.retired |= harness.chain.unindexed
    settler(harness).run_once(is_forced=True)
    harness.mine()
    assert_all_settled(harness, receipts)
    assert {signer_of(harness, signed) for signed in settled(harness)} == {NEXT.account}


def test_a_batch_is_not_committed_behind_a_retirement_that_is_queued_while_it_is_published(
    harness: SettlementHarness,
) -> None:
    """Mined in that order, the retirement would leave the batch with signatures of a retired key."""
    receipts = [harness.serve() for _ in range(3)]

    class QueuesMeanwhile:
        def __getattr__(self, name: str) -> Any:
            if name == "add_folder":
                queue_retirement(harness)
            return getattr(harness.blobs, name)

    assert harness.settler(blobs=QueuesMeanwhile()).run_once(is_forced=True).step is Step.WAITING
    assert (harness.mine(), harness.chain.committed) == (1, [])
    harness.chain.keys = [NEXT.account]
    harness.chain.time += 1
    settler(harness).run_once(is_forced=True)
    harness.mine()
    assert_all_settled(harness, receipts)
    assert {signer_of(harness, signed) for signed in settled(harness)} == {NEXT.account}


def test_no_retirement_is_queued_between_the_check_for_one_and_the_commit(
    any_harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = any_harness
    receipts = [harness.serve() for _ in range(2)]
    checks: list[str] = []

    def queue_one_after_the_check(tx: UnitOfWork, operator: Account) -> str:
        checks.append(pending_retirement(tx, operator))
        if len(checks) == 2:  # the first one is before the data is published
            with closing(impatient_database(harness.database)) as other, suppress(DatabaseUnavailable):
                queue_retirement(harness, other)
        return checks[-1]

    monkeypatch.setattr("backend.services.settle.settler.pending_retirement", queue_one_after_the_check)
    assert harness.settler().run_once(is_forced=True).step is Step.COMMITTING
    assert checks == ["", ""]
    harness.mine()
    assert_all_settled(harness, receipts)
    assert not {signer_of(harness, signed) for signed in settled(harness)} & harness.chain.retired.keys()


def test_a_retirement_that_another_installation_sent_is_seen_before_it_is_indexed(
    harness: SettlementHarness,
) -> None:
    harness.serve()
    harness.chain.unindexed = {harness.market.receipt_key.account: harness.chain.time}
    progress = harness.settler().run_once(is_forced=True)
    assert (progress.step, "not indexed yet" in progress.reason) == (Step.RETIRING, True)


def test_nothing_is_committed_in_the_second_of_a_retirement(harness: SettlementHarness) -> None:
    receipts = [harness.serve() for _ in range(2)]
    retire(harness)
    harness.chain.time -= 1
    assert settler(harness).run_once(is_forced=True).step is Step.RETIRING
    harness.chain.time += 1
    assert settler(harness).run_once(is_forced=True).step is Step.COMMITTING
    harness.mine()
    assert_all_settled(harness, receipts)


def test_a_failed_retirement_holds_nothing(harness: SettlementHarness) -> None:
    harness.serve()
    queue_retirement(harness)
    with harness.begin() as tx:
        (row,) = tx.transactions.to_be_mined(harness.market.operator, "OperatorRegistry", RETIRE)
        tx.transactions.mark_failed(row.id, {})
    assert harness.settler().run_once(is_forced=True).step is Step.COMMITTING


@pytest.mark.parametrize("at", range(1, 16))
def test_finding4_a_settler_that_dies_at_any_step_settles_with_the_next_key(
    harness: SettlementHarness, at: int
) -> None:
    receipts = [harness.serve() for _ in range(4)]
    retire(harness)
    counter = [at]
    crashing = CrashingDatabase(harness, counter)
    try:
        for _ in range(3):
            harness.settler(receipt_key=lambda _: NEXT, db=crashing).run_once(is_forced=True)
            harness.mine()
    except SimulatedCrash:
        pass
    for _ in range(3):
        settler(harness).run_once(is_forced=True)
        harness.mine()
    settle(harness, 1)
    assert_all_settled(harness, receipts)
    assert {signer_of(harness, signed) for signed in settled(harness)} == {NEXT.account}
