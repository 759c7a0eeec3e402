from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from backend.domain.errors import Conflict
from backend.domain.ids import Account, Hash32
from backend.domain.transactions import Relayed, TransactionAttempt, TransactionState
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

LANE = Account("0x" + "11" * 20)


def enqueue(database: Database, key: str, *args: object) -> int:
    with database.begin() as tx:
        return tx.transactions.enqueue(LANE, "TestUSD", "mint", list(args), key)


def test_the_same_key_is_the_same_transaction(database: Database) -> None:
    first = enqueue(database, "a", LANE, 5)
    assert enqueue(database, "a", LANE, 5) == first
    with database.read() as tx:
        known = tx.transactions.get(first)
    assert (known.args, known.state) == ((LANE, "5"), TransactionState.QUEUED)


def test_the_same_key_for_another_call_is_a_conflict(database: Database) -> None:
    enqueue(database, "a", LANE, 5)
    with pytest.raises(Conflict, match="another call"):
        enqueue(database, "a", LANE, 6)


def test_queries_of_each_pass_read_no_transactions_that_are_over(sqlite_database: Database) -> None:
    queries: list[tuple[str, Any]] = []
    plans: list[str] = []
    with sqlite_database.read() as tx:
        on, transactions = tx.session.connection(), tx.transactions
        event.listen(on, "before_cursor_execute", lambda *call: queries.append(call[2:4]))
        transactions.lanes()
        transactions.open(LANE)
        transactions.not_failed(LANE, "OperatorRegistry", "retireReceiptKey")
        for query, values in queries.copy():
            steps = on.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values)
            plans.append(next(step.detail for step in steps))
    assert [plan.partition("(")[2] for plan in plans] == [
        "state=?)",
        "state=? AND lane=?)",
        "lane=? AND contract=? AND function=?)",
    ]


def test_nonces_rise_without_gap_and_follow_the_chain(database: Database) -> None:
    ids = [enqueue(database, key) for key in "abc"]
    nonces = []
    for transaction, on_chain in zip(ids, (7, 7, 12), strict=True):
        with database.begin() as tx:
            tx.transactions.lock_lane(LANE)
            nonces.append(tx.transactions.assign_nonce(LANE, transaction, on_chain, gas=21_000))
    assert nonces == [7, 8, 12]


def test_a_count_that_is_behind_gives_no_nonce_twice(database: Database) -> None:
    first, second = enqueue(database, "a"), enqueue(database, "b")
    with database.begin() as tx:
        tx.transactions.lock_lane(LANE)
        assert tx.transactions.assign_nonce(LANE, first, 7, gas=1) == 7
        tx.transactions.mark_confirmed(first)
        assert tx.transactions.assign_nonce(LANE, second, 6, gas=1) == 8


def test_a_nonce_is_filled_by_what_once_had_it_or_by_a_filler(database: Database) -> None:
    transaction = enqueue(database, "a")
    with database.begin() as tx:
        tx.transactions.lock_lane(LANE)
        tx.transactions.assign_nonce(LANE, transaction, 7, gas=1)
        tx.transactions.mark_confirmed(transaction)
        assert tx.transactions.fill_nonce(LANE, 7, gas=21_000) is None
        filler = tx.transactions.fill_nonce(LANE, 6, gas=21_000)
        opened = tx.transactions.open(LANE)
        assert [(each.id, each.nonce, each.is_filler) for each in opened] == [
            (filler, 6, True),
            (transaction, 7, False),
        ]
        assert tx.transactions.num_unmined(LANE) == 2


def test_rivals_for_one_transaction_give_it_one_nonce(database: Database) -> None:
    transaction = enqueue(database, "a")
    barrier = threading.Barrier(4)
    taken: list[int | None] = []

    def race() -> None:
        barrier.wait()
        with database.begin() as tx:
            tx.transactions.lock_lane(LANE)
            taken.append(tx.transactions.assign_nonce(LANE, transaction, 0, gas=1))

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken, key=str) == [0, None, None, None]


def test_a_requeued_transaction_forgets_nonce_attempts_and_error(database: Database) -> None:
    transaction = enqueue(database, "a")
    attempt = TransactionAttempt(
        Hash32("0x" + "ab" * 32), "0x02", max_fee=10, priority_fee=1, sent_at_block=3
    )
    with database.begin() as tx:
        tx.transactions.lock_lane(LANE)
        tx.transactions.assign_nonce(LANE, transaction, 0, gas=1)
        tx.transactions.add_attempt(transaction, attempt)
        (opened,) = tx.transactions.open(LANE)
        assert opened.attempts == (attempt,)
        tx.transactions.mark_mined(transaction, attempt.tx_hash, 4, some_hash("block"), {"error": "Panic"})
        tx.transactions.requeue(transaction)
    with database.begin() as tx:
        queued = tx.transactions.first_queued(LANE)
        assert queued is not None
        assert (queued.id, queued.nonce, queued.hash, queued.error) == (transaction, None, None, None)
        assert tx.transactions.open(LANE) == []


def test_relayed_calls_are_sent_after_the_operators_own(database: Database) -> None:
    """Anyone may have many relayed; a commit must not wait for them."""
    with database.begin() as tx:
        for number, function in enumerate(("claim", "grantSessionWithSig", "commit", "finalise")):
            tx.transactions.enqueue(LANE, "Settlement", function, [], f"key {number}")
    sent = []
    with database.begin() as tx:
        tx.transactions.lock_lane(LANE)
        for nonce in range(4):
            queued = tx.transactions.first_queued(LANE)
            assert queued is not None
            sent.append(queued.function)
            tx.transactions.assign_nonce(LANE, queued.id, nonce, gas=1)
    assert sent == ["commit", "finalise", "claim", "grantSessionWithSig"]


def test_relayed_counts_what_is_queued_or_in_the_pool_and_a_day_of_what_is_signed(database: Database) -> None:
    now = datetime.now(UTC)
    with database.begin() as tx:
        tx.transactions.lock_lane(LANE)
        for number, function in enumerate(("claim", "grantSessionWithSig", "claim", "commit")):
            tx.transactions.enqueue(LANE, "Settlement", function, [], f"key {number}", gas=10**number)
        for nonce in range(2):  # `commit` is first
            queued = tx.transactions.first_queued(LANE)
            assert queued is not None
            tx.transactions.assign_nonce(LANE, queued.id, nonce, gas=5)
            for max_fee in (7 * 10**18, 9 * 10**18):
                tx_hash = some_hash(f"{queued.id} for {max_fee}")
                attempt = TransactionAttempt(tx_hash, "0x02", max_fee, priority_fee=1, sent_at_block=3)
                tx.transactions.add_attempt(queued.id, attempt)
        before, after = now - timedelta(hours=1), now + timedelta(hours=1)
        cost, signed_at = 5 * 9 * 10**18, tx.transactions.relayed(LANE, before).first_at
        assert signed_at is not None
        assert before < signed_at < after
        for since in (before, after):
            assert tx.transactions.relayed(LANE, since) == Relayed(cost, 10 + 100, signed_at)
        tx.transactions.mark_mined(1, tx_hash, 4, some_hash("block"))
        assert tx.transactions.relay_cost(LANE, before) == cost
        assert tx.transactions.relayed(LANE, after) == Relayed(0, 10 + 100, None)


def test_a_transaction_may_be_sent_for_several_accounts(database: Database) -> None:
    ids, (mine, yours) = (
        [enqueue(database, key) for key in "abc"],
        (some_account("mine"), some_account("yours")),
    )
    with database.begin() as tx:
        for number in (*ids, ids[0]):
            tx.transactions.record_request(mine, number)
        tx.transactions.record_request(yours, ids[1])
    with database.read() as tx:
        assert [each.id for each in tx.transactions.requested(mine, None, 2)] == [ids[2], ids[1]]
        assert [each.id for each in tx.transactions.requested(mine, ids[1], 2)] == [ids[0]]
        assert [each.id for each in tx.transactions.requested(yours, None, 9)] == [ids[1]]
        assert [tx.transactions.is_requested(yours, number) for number in ids] == [False, True, False]
