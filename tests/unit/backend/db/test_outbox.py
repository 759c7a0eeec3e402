from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from backend.db.tables.outbox import OutboxRow

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database


def test_the_same_topic_and_key_is_one_message(database: Database) -> None:
    with database.begin() as tx:
        first = tx.outbox.add("training", {"job": "a"}, key="a")
        again = tx.outbox.add("training", {"job": "a"}, key="a")
        other = tx.outbox.add("publish", {"job": "a"}, key="a")
    assert first == again != other


def _add_and_fail(database: Database) -> None:
    with database.begin() as tx:
        message = tx.outbox.add("training", {}, key="a")
        message //= 0


def test_a_rolled_back_cause_leaves_no_message(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        _add_and_fail(database)
    with database.begin() as tx:
        assert tx.outbox.due(10) == []


def test_a_delivered_message_is_not_due_again(database: Database) -> None:
    with database.begin() as tx:
        message = tx.outbox.add("training", {"n": 1}, key="a")
    with database.begin() as tx:
        (due,) = tx.outbox.due(10)
        assert (due.id, due.payload, due.num_attempts) == (message, {"n": 1}, 0)
        tx.outbox.delivered(due.id)
    with database.begin() as tx:
        assert tx.outbox.due(10) == []
        assert tx.outbox.add("training", {"n": 1}, key="a") == message


def test_a_failed_delivery_waits_and_counts(database: Database) -> None:
    with database.begin() as tx:
        message = tx.outbox.add("training", {}, key="a")
        tx.outbox.delayed(message, "broker away")
    with database.begin() as tx:
        assert tx.outbox.due(10) == []
        tx.session.execute(update(OutboxRow).values(due_at=OutboxRow.created_at))
    with database.begin() as tx:
        (due,) = tx.outbox.due(10)
    assert due.num_attempts == 1
