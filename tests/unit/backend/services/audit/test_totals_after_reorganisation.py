"""Totals of contributions are those of the chain's batches, whichever of them a reorganisation removes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select

from backend.db.tables.earnings import ContributionTotalRow
from backend.db.tables.settlement import LedgerRow
from backend.domain.errors import Unavailable
from backend.services.audit import auditor
from tests.support.chain_view import batches_read
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle_batches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SettlementHarness]:
    monkeypatch.setattr(auditor, "LEDGER_INTERVAL", 4)
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()


def totals(harness: SettlementHarness) -> dict[tuple[str, int, int], int]:
    valid = [batch.hash for batch in harness.chain.standing()]
    row = ContributionTotalRow
    query = select(row).where(row.batch_hash.in_(valid)).order_by(row.number)
    with harness.read() as tx:
        found = tx.session.scalars(query).all()
        return {(one.version_id, one.datanet, one.contribution): one.total for one in found}


def forget(harness: SettlementHarness) -> None:
    """As in a database in which no batch is audited yet."""
    with harness.begin() as tx:
        tx.session.execute(delete(LedgerRow))
        tx.session.execute(delete(ContributionTotalRow))


@pytest.mark.parametrize(
    ("last", "num_read"),
    [
        pytest.param(9, 1, id="after ledgers that were kept"),
        pytest.param(6, 6, id="after ledgers that were deleted"),
        pytest.param(4, 4, id="to a ledger kept for proofs"),
        pytest.param(3, 3, id="before all ledgers"),
    ],
)
def test_a_reorganisation_back_before_final_batches_leaves_right_totals(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch, last: int, num_read: int
) -> None:
    operator, chain = harness.market.operator, harness.chain
    settle_batches(harness, last)
    chain.final = last - 1
    fork = chain.fork()
    settle_batches(harness, 11 - last)
    chain.final = 10
    settle_batches(harness, 1)
    harness.auditor().follow(operator)

    chain.return_to(fork)
    read = batches_read(chain, monkeypatch)
    for _ in range(2):
        assert harness.audits().follow([operator]) == {}
    assert len(set(read)) == num_read
    found = totals(harness)
    forget(harness)
    harness.auditor().follow(operator)
    assert found == totals(harness)
    assert len(found) > 1


def test_nothing_is_stored_of_a_batch_that_becomes_void_while_it_is_audited(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_batches(harness, 1)
    forget(harness)
    earned_by_contribution = auditor.earned_by_contribution

    def convicted(*arguments: Any) -> Any:
        harness.chain.convict(1)
        return earned_by_contribution(*arguments)

    monkeypatch.setattr(auditor, "earned_by_contribution", convicted)
    with pytest.raises(Unavailable, match="try again"):
        harness.auditor().follow(harness.market.operator)
    with harness.read() as tx:
        assert tx.session.scalars(select(ContributionTotalRow)).all() == []
        assert tx.batches.newest_ledgers(harness.market.operator) == []
