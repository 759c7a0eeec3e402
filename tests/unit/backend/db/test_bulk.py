"""Values of bulk statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Delete, Select, delete, event, select
from sqlalchemy.dialects import sqlite

from backend.db import auth, chain, disputes, earnings, live_agreement, serving
from backend.db.bulk import KEYS, MAX_KEYS, among, execute_among, found_among, in_chunks, insert_all, table_of
from backend.db.tables.earnings import AccountRow
from backend.db.tables.serving import CumulativeRow, HeldKeyRow
from tools.labels import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

NUM_ROWS = 3


def test_a_statement_names_a_limited_number_of_values() -> None:
    values = range(2 * MAX_KEYS + 1)
    chunks = list(in_chunks(values))
    assert [len(chunk) for chunk in chunks] == [MAX_KEYS, MAX_KEYS, 1]
    assert [one for chunk in chunks for one in chunk] == list(values)
    assert list(in_chunks([])) == []


@pytest.mark.parametrize(
    ("column", "keys", "unknown"),
    [
        (HeldKeyRow.key, [some_account(f"key {i}") for i in range(NUM_ROWS)], some_account("'; \"\\")),
        (HeldKeyRow.id, [1, 2, 3], 99),
    ],
    ids=["texts", "numbers"],
)
def test_rows_are_found_and_deleted_among_any_number_of_keys(
    database: Database, column: Any, keys: list[Any], unknown: Any
) -> None:
    query, drop = select(column).where(among(column)), delete(table_of(HeldKeyRow)).where(among(column))
    many = [unknown] * 100_000
    with database.begin() as tx:
        rows = [
            {"id": i + 1, "channel_id": some_hash("channel"), "key": some_account(f"key {i}")}
            for i in range(NUM_ROWS)
        ]
        insert_all(tx.session, HeldKeyRow, rows)
        assert found_among(tx.session, query, []) == ()
        assert found_among(tx.session, query, [unknown]) == []
        assert {row[0] for row in found_among(tx.session, query, {*keys[:2], unknown})} == {*keys[:2]}
        assert {row[0] for row in found_among(tx.session, query, [*many, *keys])} == {*keys}
        execute_among(tx.session, drop, [])
        execute_among(tx.session, drop, [unknown, *keys[1:]])
        assert [row[0] for row in found_among(tx.session, query, keys)] == keys[:1]


def test_a_longer_key_is_not_cut_off(database: Database) -> None:
    with database.begin() as tx:
        insert_all(tx.session, AccountRow, [{"account": some_account("one")}])
        query = select(AccountRow.account).where(among(AccountRow.account))
        assert not found_among(tx.session, query, [some_account("one") + "0"])


def test_keys_are_values_and_not_sql(database: Database) -> None:
    account = "x' OR 1=1 --\""
    with database.begin() as tx:
        insert_all(tx.session, AccountRow, [{"account": account}, {"account": some_account("other")}])
        query = select(AccountRow.account).where(among(AccountRow.account))
        assert [row.account for row in found_among(tx.session, query, [account])] == [account]


def test_only_texts_and_integers_are_keys() -> None:
    with pytest.raises(TypeError, match="only texts and integers can be keys"):
        among(CumulativeRow.charged)


PREPARED = {
    f"{module.__name__}.{name}": statement
    for module in (auth, chain, disputes, earnings, live_agreement, serving)
    for name, statement in vars(module).items()
    if isinstance(statement, Select | Delete) and KEYS in statement.compile(dialect=sqlite.dialect()).params
}


def test_prepared_statements_are_those_of_this_package() -> None:
    assert len(PREPARED) >= 14


@pytest.mark.parametrize("name", sorted(PREPARED.keys() - {"backend.db.earnings._CREDIT_IDS"}))
def test_sqlite_finds_rows_by_an_index(sqlite_database: Database, name: str) -> None:
    """Credits have an index by account and batch, which is read as a whole to find those of batches."""
    with sqlite_database.read() as tx:
        on = tx.session.connection()
        compiled = PREPARED[name].compile(dialect=on.dialect)
        values = tuple(compiled.params[key] or "[]" for key in compiled.positiontup or ())
        steps = on.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", values).all()
    found = [row.detail for row in steps if "json_each" not in row.detail and "SUBQUERY" not in row.detail]
    assert found[0].startswith("SEARCH "), found


def test_postgresql_finds_rows_by_an_index(postgres_database: Database) -> None:
    with postgres_database.begin() as tx:
        tx.session.connection().exec_driver_sql("SET LOCAL enable_seqscan = off")
        said: list[tuple[str, Any]] = []
        event.listen(tx.session.connection(), "before_cursor_execute", lambda *call: said.append(call[2:4]))
        channel = some_hash("channel")
        tx.channels.lock(channel)
        tx.channels.reservations([channel])
        tx.channels.drop_reservations(["reservation"])
        tx.chain.known_channels([channel])
        tx.auth.spending(["key"])
        queries = [one for one in said if "ANY (" in one[0]]
        on = tx.session.connection()
        plans = [on.exec_driver_sql(f"EXPLAIN {query}", values).scalars().all() for query, values in queries]
    assert len(plans) == 6
    for plan in plans:
        assert any("Index" in line and ("channel" in line or "pk_" in line) for line in plan), plan
