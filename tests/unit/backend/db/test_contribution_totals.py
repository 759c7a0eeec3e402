"""What contributions earned: totals are those of the valid batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.db.tables.chain import BatchRow, VoidRow
from backend.db.tables.earnings import ContributionTotalRow
from backend.domain.earnings import ContributionEarning
from backend.domain.ids import DatanetId, VersionId
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

OPERATOR, OTHER = some_account("operator"), some_account("other operator")
VERSION = VersionId(some_hash("version"))


def earning(contribution: int, amount: int) -> ContributionEarning:
    return ContributionEarning(VERSION, DatanetId(1), contribution, some_account("contributor"), amount)


class Batches:
    """Commits batches to the projections and stores their totals, as the auditor does."""

    def __init__(self, database: Database) -> None:
        self.database, self.height = database, 0

    def commit(self, label: str, number: int, *earned: ContributionEarning, final: int = 0) -> None:
        batch_hash = some_hash(label)
        self.height += 1
        with self.database.begin() as tx:
            tx.session.add(
                BatchRow(
                    hash=batch_hash,
                    operator=OPERATOR,
                    number=number,
                    header={},
                    tx_hash=some_hash("tx"),
                    is_refunded=False,
                    block_number=self.height,
                    log_index=0,
                )
            )
            valid_among = tx.chain.valid_among
            for _ in range(2):  # as two processes do
                tx.contribution_totals.add(OPERATOR, number, batch_hash, earned, valid_among)
            tx.contribution_totals.prune(OPERATOR, final, valid_among, earned)

    def void(self, first: int, last: int) -> None:
        self.height += 1
        with self.database.begin() as tx:
            tx.session.add(
                VoidRow(
                    block_hash=some_hash(f"void {self.height}"),
                    operator=OPERATOR,
                    first=first,
                    last=last,
                    batch_hash=some_hash("convicted"),
                    tx_hash=some_hash("tx"),
                    block_number=self.height,
                    log_index=0,
                )
            )

    def totals(self) -> dict[int, int]:
        with self.database.read() as tx:
            found = tx.contribution_totals.of_versions([VERSION])
            return {one.contribution: one.amount for one in found}

    def num_rows(self) -> int:
        with self.database.read() as tx:
            return tx.session.query(ContributionTotalRow).count()


def test_totals_add_up_over_batches(database: Database) -> None:
    batches = Batches(database)
    batches.commit("one", 1, earning(0, 10), earning(1, 5))
    batches.commit("two", 2, earning(0, 7))
    assert batches.totals() == {0: 17, 1: 5}


def test_a_void_takes_back_what_its_batches_added(database: Database) -> None:
    batches = Batches(database)
    batches.commit("one", 1, earning(0, 10))
    batches.commit("two", 2, earning(0, 7), earning(1, 3))
    batches.void(2, 2)
    assert batches.totals() == {0: 10}
    batches.commit("two again", 2, earning(0, 6))
    assert batches.totals() == {0: 16}


def test_only_totals_that_a_final_batch_replaced_are_deleted(database: Database) -> None:
    batches = Batches(database)
    batches.commit("one", 1, earning(0, 10), earning(1, 5))
    batches.commit("two", 2, earning(0, 7))
    batches.commit("three", 3, earning(0, 1), final=2)
    assert batches.num_rows() == 3  # the first of contribution 0 is gone
    batches.void(3, 3)
    assert batches.totals() == {0: 17, 1: 5}


def test_a_batch_that_left_the_chain_counts_for_nothing(database: Database) -> None:
    batches = Batches(database)
    with database.begin() as tx:
        tx.contribution_totals.add(OTHER, 1, some_hash("gone"), [earning(0, 10)], set)
    assert batches.totals() == {}
