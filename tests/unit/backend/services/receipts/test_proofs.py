from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.api.schemas.receipts import ReceiptProofView
from backend.domain.errors import NotFound
from backend.domain.hashing import keccak, receipt_id, to_hash
from backend.domain.ids import ReceiptId
from backend.domain.merkle import InvalidOpening
from backend.services.receipts.proofs import NotCommitted, Proofs
from tests.support.market import some_hash
from tests.support.receipt_proofs import read_back
from tests.support.settlement_harness import SettlementHarness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.receipt import SignedReceipt


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()


@pytest.fixture
def proofs(harness: SettlementHarness) -> Proofs:
    return Proofs(harness, harness.auditor(), harness.chain)  # type: ignore[arg-type]


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


def test_a_receipt_that_waits_for_its_batch_has_no_proof_yet(
    harness: SettlementHarness, proofs: Proofs
) -> None:
    signed = harness.serve()
    with pytest.raises(NotCommitted):
        proofs.inclusion(receipt_id(signed.receipt))
    with pytest.raises(NotFound):
        proofs.inclusion(ReceiptId(some_hash("unknown")))
