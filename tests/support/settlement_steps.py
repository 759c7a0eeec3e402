"""Settlement runs on a `SettlementHarness`, and proxies that crash at a chosen step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backend.domain.batch import Header
from backend.domain.batch_data import FILE_NAME, decode
from backend.domain.content import cid_of
from backend.domain.hashing import receipt_id
from tests.support.databases import ViewDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.disputes.witnesses import Fault
    from backend.domain.receipt import SignedReceipt
    from tests.support.settlement_harness import SettlementHarness


def settle(harness: SettlementHarness, rounds: int = 6) -> None:
    """Run settler and miner until nothing is left to do."""
    for _ in range(rounds):
        harness.settler().run_once(is_forced=True)
        harness.mine()


def settle_batches(harness: SettlementHarness, count: int, answers: int = 2) -> list[SignedReceipt]:
    """Settle `count` batches in sequence; returns their receipts."""
    receipts = []
    for _ in range(count):
        receipts += [harness.serve() for _ in range(answers)]
        harness.settler().run_once(is_forced=True)
        harness.mine()
    return receipts


def settled(harness: SettlementHarness) -> list[SignedReceipt]:
    """Receipts published by the batches that are not void, in order."""
    headers = [Header.from_chain(batch.header) for batch in harness.chain.standing()]
    return [r for h in headers for r in decode(harness.blobs.read(cid_of(h.data_digest), FILE_NAME))[1]]


def convict(harness: SettlementHarness, proof: str, fault: Fault, guilty: SignedReceipt) -> None:
    """Convict the newest batch by a fault of one of its receipts."""
    batch = harness.chain.standing()[-1]
    ids = [receipt_id(signed.receipt) for signed in settled(harness)]
    index = ids.index(receipt_id(guilty.receipt))
    harness.chain.convict(batch.number, proof, fault, index)


def assert_all_settled(harness: SettlementHarness, receipts: list[SignedReceipt]) -> None:
    ids = [receipt_id(signed.receipt) for signed in settled(harness)]
    assert sorted(ids) == sorted(receipt_id(signed.receipt) for signed in receipts)
    assert harness.unsettled() == 0
    assert all(verdict.is_right for verdict in harness.auditor().audit(harness.market.operator))
    collected = {c: harness.chain.channel_by_id[c].collected for c in harness.market.channels}
    assert collected == harness.market.cumulative


class SimulatedCrash(Exception):
    """Stands for the death of the process."""


class CrashingProxy:
    """Forwards calls, and raises `SimulatedCrash` before the n-th call of a method in `names`."""

    def __init__(self, target: Any, names: set[str], at: int) -> None:
        self._target, self._names, self._left = target, names, at

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            self._left -= 1
            if self._left == 0:
                raise SimulatedCrash
        return getattr(self._target, name)


class CrashingDatabase(ViewDatabase):
    """Units of work that crash before they begin, before they commit, or right after. `counter` counts these
    steps down to the crash.
    """

    def __init__(self, harness: SettlementHarness, counter: list[int]) -> None:
        super().__init__(harness.database, harness.chain)
        self._counter = counter

    @contextmanager
    def begin(self) -> Iterator[UnitOfWork]:
        self._tick()
        with super().begin() as tx:
            yield tx
            self._tick()
        self._tick()

    def _tick(self) -> None:
        self._counter[0] -= 1
        if self._counter[0] == 0:
            raise SimulatedCrash
