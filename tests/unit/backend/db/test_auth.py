from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.domain.auth import EVERY_SCOPE, ApiKey, Session
from tests.support.market import some_account

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


def test_all_keys_and_sessions_are_revoked_at_once(database: Database) -> None:
    account = some_account("payer")
    keys = [
        ApiKey(f"key_{n}", account, "laptop", "llk_", NOW, None, None, None, 0, EVERY_SCOPE, None)
        for n in (1, 2)
    ]
    with database.begin() as tx:
        for key in keys:
            tx.auth.add_key(key, f"0x{key.id}")
        tx.auth.revoke_key("key_1", NOW)
        later = NOW + timedelta(days=1)
        tx.auth.add_session(Session("s", account, NOW, later, "0xtoken", later, "0xrefresh", None))
    with database.begin() as tx:
        assert tx.auth.revoke_all(later) == (1, 1)
        assert [key.revoked_at for key in sorted(tx.auth.keys(account), key=lambda key: key.id)] == [
            NOW,
            later,
        ]
        assert tx.auth.session("s") is None
        assert tx.auth.revoke_all(later) == (0, 0)
