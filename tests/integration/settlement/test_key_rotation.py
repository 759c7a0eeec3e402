"""Processes that die between all steps rotate a leaked receipt key on the real contracts (finding 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.contracts import interface
from backend.chain.keys import recover
from backend.chain.keystore import KeyStore
from backend.domain.batch import Header
from backend.domain.chain import Reverted
from backend.domain.disputes.proofs import EquivocationProof
from backend.domain.hashing import TypedDomain, keccak, to_hash, words
from backend.domain.settlement import BatchState
from backend.services.operator.key_rotation import KeyRotation, Rotation
from backend.services.operator.receipt_keys import ReceiptKeys
from backend.services.settle.settler import Progress, Step
from tests.support.market import some_hash
from tools.local_market import OPERATOR, PAYERS, RECEIPT_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from tests.integration.settlement.conftest import LiveMarket


@dataclass
class Operations:
    """Each method is one process, which ends before the next one starts."""

    market: LiveMarket
    folder: Path

    @property
    def keys(self) -> ReceiptKeys:
        store = KeyStore(self.folder / "keys", "password")
        return ReceiptKeys(OPERATOR.account, lambda: RECEIPT_KEY, lambda: store)

    def rotate(self) -> Rotation:
        market = self.market
        registry = TypedDomain(market.chain.chain_id, market.chain.address("OperatorRegistry"))
        rotation = KeyRotation(market.database, market.chain, OPERATOR.account, self.keys, registry)
        return rotation.rotate([RECEIPT_KEY.account])

    def send(self) -> None:
        self.market.sender.run_once()

    def index(self) -> None:
        self.market.indexer.catch_up()

    def settle(self) -> Progress:
        return replace(self.market.settler(), receipt_key=self.keys.in_use).run_once(is_forced=True)

    def serve(self) -> SignedReceipt:
        """An answer that the API signs with the key in use."""
        key: Any = self.key_in_use()
        self.market.receipt_key = key
        return self.market.serve(PAYERS[0], [self.market.base])

    def key_in_use(self) -> Any:
        with self.market.database.read() as tx:
            return self.keys.in_use(tx.chain)

    def convict_by_thief(self, number: int) -> None:
        """The thief of the key signs a receipt that the operator never signed. Errors: `Reverted`."""
        market = self.market
        with market.database.read() as tx:
            batches = tx.chain.batches(OPERATOR.account)
        (committed,) = [b for b in batches if b.number == number and b.state is BatchState.COMMITTED]
        batch = market.auditor().batch(OPERATOR.account, number)
        ours = batch.receipts[0].receipt
        forged = replace(ours, response_hash=some_hash("never said"))
        signature = RECEIPT_KEY.sign(market.settlement.receipt_digest(forged))
        header = Header.from_chain(committed.header)
        proof = EquivocationProof(header, ours, batch.open_receipt(0), forged, signature)
        data = interface("Disputes").function(proof.function, proof.args).encode(proof.args)
        reservation = keccak(words(PAYERS[1].account, to_hash(keccak(data))))
        market.send(PAYERS[1], "Disputes", "reserve", to_hash(reservation))
        market.send(PAYERS[1], "Disputes", proof.function, *proof.args)

    def signers(self, number: int) -> set[Account]:
        batch = self.market.auditor().batch(OPERATOR.account, number)
        digest = self.market.settlement.receipt_digest
        return {recover(digest(signed.receipt), signed.signature) for signed in batch.receipts}


@pytest.fixture
def operations(market: LiveMarket, tmp_path: Path) -> Operations:
    return Operations(market, tmp_path)


def test_finding4_a_leaked_key_is_rotated_by_processes_that_die_between_all_steps(
    operations: Operations,
) -> None:
    market = operations.market
    served = [operations.serve() for _ in range(3)]
    assert operations.settle().step is Step.COMMITTING
    market.pump()
    operations.convict_by_thief(1)
    operations.index()
    assert operations.settle().step is Step.REFUNDING
    market.pump()

    next_key = operations.rotate().next_key
    for step in (operations.send, operations.send, operations.send):
        assert operations.settle().step is Step.RETIRING
        again = operations.rotate()
        assert (again.next_key, again.is_indexed) == (next_key, False)
        served.append(operations.serve())  # still by the old key, which serving learns of by the index
        step()
    assert operations.settle().step is Step.RETIRING
    operations.index()
    assert operations.key_in_use().account == next_key
    served.append(operations.serve())
    assert (operations.rotate().num_unsigned, operations.rotate().is_done) == (6, False)

    market.sleep(1)
    assert operations.settle().step is Step.COMMITTING
    assert operations.rotate().is_done
    market.pump()
    assert operations.signers(1) == {next_key}
    with pytest.raises(Reverted, match="NotSignedBy"):
        operations.convict_by_thief(1)
    assert all(verdict.is_right for verdict in market.auditor().audit(OPERATOR.account))
    batch = market.auditor().batch(OPERATOR.account, 1)
    assert [signed.receipt for signed in batch.receipts] == [signed.receipt for signed in served]
    with market.database.read() as tx:
        assert list(tx.receipts.backlogs(OPERATOR.account)) == []
        assert tx.chain.operator(OPERATOR.account).retired.keys() == {RECEIPT_KEY.account}


def test_receipts_of_batches_before_the_retirement_stay_verified(operations: Operations) -> None:
    market = operations.market
    operations.serve()
    operations.settle()
    market.pump()
    market.sleep(1)
    operations.rotate()
    market.pump()
    market.sleep(1)
    assert operations.signers(1) == {RECEIPT_KEY.account}
    operations.serve()
    assert operations.settle().number == 2
    market.pump()
    assert operations.signers(2) != {RECEIPT_KEY.account}
    (first, second) = market.auditor().audit(OPERATOR.account)
    assert first.is_right
    assert second.is_right
