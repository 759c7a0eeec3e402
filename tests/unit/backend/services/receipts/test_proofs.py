from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete

from backend.api.schemas.receipts import ReceiptProofView
from backend.db.tables.settlement import LedgerRow
from backend.domain.errors import NotFound, Unavailable
from backend.domain.hashing import keccak, receipt_id, to_hash
from backend.domain.ids import ReceiptId
from backend.domain.merkle import InvalidOpening
from backend.services.audit import auditor
from backend.services.audit.auditor import Auditor
from backend.services.background import Background
from backend.services.receipts.proofs import NotCommitted, Proofs
from tests.support.chain_view import batches_read
from tests.support.market import some_hash
from tests.support.receipt_proofs import read_back
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle, settle_batches
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.batch import Batch
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()


@pytest.fixture
def proofs(harness: SettlementHarness) -> Proofs:
    return harness.proofs()


def commit(harness: SettlementHarness, count: int) -> list[SignedReceipt]:
    served = [harness.serve() for _ in range(count)]
    harness.settler().run_once(is_forced=True)
    harness.mine()
    return served


def test_every_receipt_of_a_batch_is_shown_offline_from_the_answer_alone(
    harness: SettlementHarness, proofs: Proofs
) -> None:
    commit(harness, 3)
    for signed in commit(harness, 9):  # on top of balances that were there before
        place = proofs.inclusion(receipt_id(signed.receipt))
        shown = ReceiptProofView.of(place).model_dump(mode="json")
        assert read_back(shown).check(signed.receipt) == shown["batch_hash"]
        assert to_hash(keccak(bytes.fromhex(shown["spans"][2:]))) == shown["header"]["spansHash"]
        committed = harness.chain.batches(harness.market.operator)[-1]
        assert (shown["batch_hash"], shown["tx_hash"]) == (committed.hash, committed.tx_hash)


def test_a_proof_is_of_one_receipt_and_of_all_that_it_earned(
    harness: SettlementHarness, proofs: Proofs
) -> None:
    first, second = commit(harness, 2)
    proof = proofs.inclusion(receipt_id(first.receipt)).proof
    entry, balance = proof.entries[0], proof.balances[0]
    dearer = replace(entry, entry=replace(entry.entry, value=entry.entry.value + 1))
    forgeries = {
        "receipt": [
            replace(proof, receipt=replace(proof.receipt, value=proof.receipt.value + 1)),
            replace(proof, header=replace(proof.header, receipts_root=some_hash("x"))),
            replace(proof, header=replace(proof.header, total=proof.header.total + 1)),
        ],
        "entries": [
            replace(proof, entries=proof.entries[1:]),
            replace(proof, entries=(dearer, *proof.entries[1:])),
            replace(proof, entries=(entry, *proof.entries)),
            replace(proof, header=replace(proof.header, entries_root=some_hash("x"))),
        ],
        "balances": [
            replace(proof, balances=proof.balances[1:]),
            replace(proof, balances=(balance, *proof.balances)),
            replace(proof, header=replace(proof.header, balances_root=some_hash("x"))),
        ],
    }
    assert proof.check(first.receipt)
    for param, proofs_of_part in forgeries.items():
        for number, forged in enumerate(proofs_of_part):
            with pytest.raises(InvalidOpening) as caught:
                forged.check(first.receipt)
            assert caught.value.param == param, number
    with pytest.raises(InvalidOpening):
        proof.check(second.receipt)
    other_hash = replace(proof.header, final_at=proof.header.final_at + 1)
    assert replace(proof, header=other_hash).check(first.receipt) != proof.header.hash


def test_entries_of_another_receipt_of_the_same_charge_prove_no_earnings(
    harness: SettlementHarness, proofs: Proofs
) -> None:
    """All earnings of both are the same, so that nothing but the receipt's index tells them apart."""
    one, other, *_ = harness.market.channels
    first = harness.serve(one)
    twin = replace(first.receipt, channel_id=other, request_hash=some_hash("another request"))
    second = harness.market.sign(twin, first.slices)
    harness.store(second)
    harness.sign_voucher(other, twin.cumulative)
    settle(harness)
    proof, of_second = (proofs.inclusion(receipt_id(each.receipt)).proof for each in (first, second))
    assert proof.check(first.receipt) == of_second.check(second.receipt)
    with pytest.raises(InvalidOpening, match="an entry is of another receipt"):
        replace(proof, entries=of_second.entries).check(first.receipt)


def test_a_proof_takes_the_audit_of_the_batches_since_a_kept_ledger_however_many_there_are(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor, "LEDGER_INTERVAL", 4)
    receipts = settle_batches(harness, 11, answers=1)
    harness.chain.final = 11
    settle_batches(harness, 1)  # the audit of it prunes the ledgers of final batches
    operator = harness.market.operator
    read = batches_read(harness.chain, monkeypatch)

    def audited(number: int) -> set[int]:
        """Batches that a proof from this one reads, besides the newest audited one."""
        read.clear()
        place = harness.proofs().inclusion(receipt_id(receipts[number - 1].receipt))
        assert place.proof.check(receipts[number - 1].receipt) == place.batch.hash
        return set(read) - {11}

    assert audited(3) == {1, 2, 3}
    assert audited(6) == {4, 5, 6}
    assert audited(11) == {10}
    with harness.begin() as tx:
        tx.batches.prune_ledgers(operator, 11, 100)  # as before those at intervals were kept
    assert audited(10) == set(range(1, 11))
    assert audited(10) == {8, 9, 10}
    assert audited(6) == {4, 5, 6}


def test_a_batch_that_is_not_audited_yet_is_left_to_the_audit(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stores what the batch credits together with the ledger."""
    monkeypatch.setattr(auditor, "LEDGER_INTERVAL", 1)
    first, second = settle_batches(harness, 2, answers=1)
    with harness.begin() as tx:
        tx.session.execute(delete(LedgerRow))
    for signed in (second, first):
        assert harness.proofs().inclusion(receipt_id(signed.receipt))
    with harness.begin() as tx:
        assert tx.batches.newest_ledgers(harness.market.operator) == []


def test_a_request_waits_briefly_for_a_batch_which_is_then_built_once(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    (signed,), release, numbers = commit(harness, 1), threading.Event(), []

    class Slow(Auditor):
        def batch(self, operator: Account, number: int) -> Batch:
            numbers.append(number)
            release.wait()
            return super().batch(operator, number)

    slow = Slow(harness.db, harness.auditor()._cases)
    proofs = Proofs(harness.db, slow, harness.chain, Background(wait_seconds=0))
    for _ in range(2):
        with pytest.raises(Unavailable, match="try again"):
            proofs.inclusion(receipt_id(signed.receipt))
    release.set()
    assert wait_for(lambda: proofs._built)
    assert proofs.inclusion(receipt_id(signed.receipt)).proof.check(signed.receipt)
    assert numbers == [1]


def test_a_batch_that_replaces_another_while_it_is_built_is_not_kept_as_that_one(
    harness: SettlementHarness,
) -> None:
    (signed,) = settle_batches(harness, 1, answers=1)
    before = harness.chain.committed[0]

    class Slow(Auditor):
        def batch(self, operator: Account, number: int) -> Batch:
            harness.chain.convict(1)
            harness.serve()
            settle(harness)
            return super().batch(operator, number)

    slow = Slow(harness.db, harness.auditor()._cases)
    proofs = Proofs(harness.db, slow, harness.chain, Background(wait_seconds=60))
    with pytest.raises(Unavailable, match=r"batch 1 .* was replaced; try again"):
        proofs.inclusion(receipt_id(signed.receipt))
    assert harness.chain.standing()[0].hash != before.hash
    assert proofs._built == {}


def test_the_latest_batches_are_kept_while_they_are_small(
    harness: SettlementHarness, proofs: Proofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = settle_batches(harness, 3, answers=1)
    for signed in receipts:
        proofs.inclusion(receipt_id(signed.receipt))
    hashes = [batch.hash for batch in harness.chain.committed]
    assert list(proofs._built) == hashes
    monkeypatch.setattr("backend.services.receipts.proofs.MAX_CACHED_BYTES", 1)
    proofs._built.pop(hashes[0])
    proofs.inclusion(receipt_id(receipts[0].receipt))
    assert list(proofs._built) == hashes[:1], "the newest, whatever its size"


def test_a_receipt_that_waits_for_its_batch_has_no_proof_yet(
    harness: SettlementHarness, proofs: Proofs
) -> None:
    signed = harness.serve()
    with pytest.raises(NotCommitted):
        proofs.inclusion(receipt_id(signed.receipt))
    with pytest.raises(NotFound):
        proofs.inclusion(ReceiptId(some_hash("unknown")))
