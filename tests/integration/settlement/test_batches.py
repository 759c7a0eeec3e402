from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from backend.domain.batch import OperatorLedger
from backend.domain.ids import ChannelId
from backend.domain.settlement import BatchRecord
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

OPERATOR, OTHER = some_account("operator"), some_account("other")
LEDGER = OperatorLedger(
    number=3,
    hash=some_hash("batch 3"),
    cumulative_total=(1 << 128) - 1,
    balances={some_account("a"): (1 << 128) - 2, some_account("b"): 1},
    collected={ChannelId(some_hash("channel")): (1 << 127) + 1},
)


def test_a_ledger_is_read_as_it_was_saved_to_the_last_unit(database: Database) -> None:
    for is_new in (True, False):
        with database.begin() as tx:
            assert tx.batches.save_ledger(OPERATOR, LEDGER) is is_new
    with database.read() as tx:
        assert tx.batches.ledger(OPERATOR, LEDGER.hash) == LEDGER
        assert tx.batches.ledger(OTHER, LEDGER.hash) is None
        assert tx.batches.ledger(OPERATOR, some_hash("unknown")) is None


def test_of_two_processes_that_save_a_ledger_at_once_one_does(database: Database) -> None:
    start = threading.Barrier(4)

    def save(_: int) -> bool:
        start.wait()
        with database.begin() as tx:
            return tx.batches.save_ledger(OPERATOR, LEDGER)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(save, range(4))) == [False, False, False, True]


def test_pruning_keeps_the_ledgers_from_a_number_on_and_those_at_intervals(database: Database) -> None:
    older = replace(LEDGER, number=2, hash=some_hash("batch 2"))
    foreign = replace(LEDGER, number=1, hash=some_hash("foreign"))
    oldest = replace(LEDGER, number=1, hash=some_hash("batch 1"))
    with database.begin() as tx:
        for ledger in (oldest, older, LEDGER):
            tx.batches.save_ledger(OPERATOR, ledger)
        tx.batches.save_ledger(OTHER, foreign)
        tx.batches.prune_ledgers(OPERATOR, LEDGER.number, 2)
    with database.read() as tx:
        assert tx.batches.ledger(OPERATOR, LEDGER.hash) == LEDGER
        assert tx.batches.ledger(OPERATOR, older.hash) == older
        assert tx.batches.ledger(OPERATOR, oldest.hash) is None
        assert tx.batches.ledger(OTHER, foreign.hash) == foreign
        assert tx.batches.newest_ledgers(OPERATOR, 2) == [(2, older.hash)]
        assert tx.batches.newest_ledgers(OPERATOR, 1) == []


def test_a_batch_put_again_replaces_the_one_of_its_number(database: Database) -> None:
    first, second = (BatchRecord(OPERATOR, n, some_hash(f"data {n}"), n, is_released=False) for n in (1, 2))
    with database.begin() as tx:
        assert tx.batches.latest(OPERATOR) is None
        for record in (first, second, replace(first, is_released=True)):
            tx.batches.put(record)
    with database.read() as tx:
        assert tx.batches.latest(OPERATOR) == second
        assert tx.batches.get(OPERATOR, 1) == replace(first, is_released=True)
        assert tx.batches.get(OTHER, 1) is None
