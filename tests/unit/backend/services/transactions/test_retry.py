from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import Conflict
from backend.domain.ids import Account
from backend.services.transactions.retry import enqueue_with_retry

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

LANE = Account("0x" + "11" * 20)


def attempt(database: Database, *args: object, most: int | None = None) -> int:
    with database.begin() as tx:
        return enqueue_with_retry(tx, LANE, ("TestUSD", "mint"), args, "key", most)


def fail(database: Database, transaction: int) -> None:
    with database.begin() as tx:
        tx.transactions.mark_failed(transaction, {"error": "OutOfGas"})


def test_a_call_is_sent_again_only_after_it_failed(sqlite_database: Database) -> None:
    first = attempt(sqlite_database, LANE, 5)
    assert attempt(sqlite_database, LANE, 5) == first
    fail(sqlite_database, first)
    second = attempt(sqlite_database, LANE, 5)
    assert second != first
    assert attempt(sqlite_database, LANE, 5) == second


def test_after_the_last_retry_the_failure_is_final(sqlite_database: Database) -> None:
    sent = []
    for _ in range(5):
        sent.append(attempt(sqlite_database, LANE, 5, most=2))
        fail(sqlite_database, sent[-1])
    assert len(set(sent)) == 2
    assert sent[1:] == [sent[1]] * 4


def test_other_arguments_under_the_same_key_are_a_conflict_while_the_call_stands(
    sqlite_database: Database,
) -> None:
    first = attempt(sqlite_database, LANE, 5)
    with pytest.raises(Conflict, match="another call"):
        attempt(sqlite_database, LANE, 6)
    fail(sqlite_database, first)
    assert attempt(sqlite_database, LANE, 6) != first
