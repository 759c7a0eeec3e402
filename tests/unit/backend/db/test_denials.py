"""Denials, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.domain.denials import Denial, Denied, FloorPrice, Reason, Subject
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

NOW = datetime(2026, 5, 4, tzinfo=UTC)
ADAPTER = Subject(Denied.ADAPTER, some_hash("adapter"))
PAYER = Subject(Denied.PAYER, some_account("payer"))


def test_a_denial_takes_the_place_of_an_earlier_one_and_is_found_by_its_subject(database: Database) -> None:
    later = Denial(ADAPTER, Reason.LEGAL, NOW + timedelta(seconds=1))
    payer = Denial(PAYER, Reason.POLICY, NOW)
    with database.begin() as tx:
        tx.denials.put(Denial(ADAPTER, Reason.HARMFUL, NOW))
        tx.denials.put(payer)
        tx.denials.put(later)
    with database.read() as tx:
        assert tx.denials.all() == [payer, later]
        assert tx.denials.find([ADAPTER, Subject(Denied.CONTENT, ADAPTER.id)]) == [later]
        assert tx.denials.find([]) == []


def test_a_denial_is_removed_once(database: Database) -> None:
    with database.begin() as tx:
        tx.denials.put(Denial(PAYER, Reason.POLICY, NOW))
        assert tx.denials.remove(PAYER)
        assert not tx.denials.remove(PAYER)
        assert tx.denials.all() == []


def test_the_floor_price_is_one_until_it_is_set(database: Database) -> None:
    floors = [FloorPrice(5, 0), FloorPrice(2**63 - 1, 7)]
    with database.read() as tx:
        assert (tx.denials.floor(), tx.denials.is_floor_set()) == (FloorPrice(1, 1), False)
    for floor in floors:
        with database.begin() as tx:
            tx.denials.set_floor(floor)
        with database.read() as tx:
            assert (tx.denials.floor(), tx.denials.is_floor_set()) == (floor, True)
