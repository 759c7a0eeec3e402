from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def test_a_nonce_is_taken_by_one_of_many(database: Database) -> None:
    with database.begin() as tx:
        tx.auth.add_nonce("nonce", NOW + timedelta(minutes=1))
    start, taken = threading.Barrier(4), []

    def take() -> None:
        start.wait()
        with database.begin() as tx:
            taken.append(tx.auth.consume_nonce("nonce", NOW))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False, False, False, True]
