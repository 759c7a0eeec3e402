from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from backend.domain.auth import Session
from backend.domain.earnings import Credit, Earning, EarningFilter, EarningsBy, EarningSum
from backend.domain.ids import DatanetId, ReceiptId, VersionId
from tests.support.chain_events import ALICE, BOB, OPERATOR, committed, take_in, voided, word
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

NOW = datetime(2026, 5, 4, tzinfo=UTC)
EARNER = some_account("earner")
FIRST, SECOND = some_hash("first batch"), some_hash("second batch")
VERSIONS = [VersionId(some_hash(f"version {n}")) for n in range(2)]
LARGE = 10**38


def earning(place: int, amount: int = 7, contribution: int | None = None) -> Earning:
    datanet = None if contribution is None else DatanetId(5)
    receipt, version = ReceiptId(some_hash(f"receipt {place}")), VERSIONS[place % 2]
    return Earning(place, 0, 2 if datanet is None else 3, receipt, version, datanet, contribution, amount)


def credit(batch: str, earnings: list[Earning], balance: int = LARGE) -> Credit:
    total = sum(one.amount for one in earnings)
    return Credit(EARNER, OPERATOR, 1, batch, 1_790_000_000, len(earnings), total, balance)


@pytest.fixture
def earnings(database: Database) -> list[Earning]:
    """Entries of the first of two batches, stored."""
    own = [earning(0, LARGE), earning(1, 1, contribution=4), earning(2, 2, contribution=4)]
    with database.begin() as tx:
        tx.earnings.add([(credit(FIRST, own), own), (credit(SECOND, []), [])])
    return own


def test_an_account_is_known_once_it_signed_in_and_stays_so(database: Database) -> None:
    with database.begin() as tx:
        for n in range(2):
            tx.auth.add_session(Session(f"s{n}", EARNER, NOW, NOW, f"token {n}", NOW, "refresh", None))
        tx.auth.end_session("s1")
    with database.read() as tx:
        assert tx.earnings.known([some_account("nobody"), EARNER]) == [EARNER]


def test_entries_are_read_by_batch_in_their_order(database: Database, earnings: list[Earning]) -> None:
    with database.read() as tx:
        assert tx.earnings.entries(EARNER, [SECOND, FIRST], EarningFilter()) == {FIRST: earnings}
        assert tx.earnings.entries(OPERATOR, [FIRST], EarningFilter()) == {}
        assert tx.earnings.batches_of(EARNER, earnings[0].receipt_id) == [FIRST]


def test_credits_are_read_by_the_numbers_of_their_batches(database: Database) -> None:
    numbers = [9, 2, 8, 8, 5, 1]
    with database.begin() as tx:
        for place, number in enumerate(numbers):
            tx.earnings.add([(replace(credit(some_hash(f"batch {place}"), []), number=number), [])])
    with database.read() as tx:
        for until in range(11):
            newest = max((number for number in numbers if number <= until), default=0)
            for span in (1, 2, 4, 100):
                found = [one.number for one in tx.earnings.credits(EARNER, OPERATOR, until, span)]
                assert found == sorted((n for n in numbers if newest - span < n <= until), reverse=True)
        assert not tx.earnings.credits(OPERATOR, OPERATOR, 10, 100)
        assert not tx.earnings.credits(EARNER, EARNER, 10, 100)


def test_operators_that_credit_most_come_first_without_what_was_void_at_a_block(database: Database) -> None:
    amounts = {1: (ALICE, LARGE), 2: (BOB, 2 * LARGE), 3: (OPERATOR, 2), 4: (OPERATOR, LARGE - 1)}
    with database.begin() as tx:
        take_in(tx, *(committed(name, name, operator) for name, (operator, _) in amounts.items()))
        take_in(tx, voided(2, 2, 2, BOB))
        for name, (operator, amount) in amounts.items():
            own = [earning(0, amount)]
            tx.earnings.add([(replace(credit(word(name), own), operator=operator), own)])
    with database.read() as tx:
        newest = tx.earnings.newest_credit(EARNER)
        assert tx.earnings.operators(EARNER, newest, 1) == [BOB, OPERATOR, ALICE]
        assert tx.earnings.operators(EARNER, newest, 2) == [OPERATOR, ALICE, BOB]
        assert tx.earnings.operators(EARNER, newest - 1, 1) == [BOB, ALICE, OPERATOR]


def test_a_part_of_a_batch_begins_after_a_place(database: Database) -> None:
    own = [replace(earning(n >> 2), slice=n >> 1 & 1, part=n & 1) for n in range(8)]
    with database.begin() as tx:
        tx.earnings.add([(credit(FIRST, own), own)])
    with database.read() as tx:
        for begin in range(8):
            found = tx.earnings.entries(EARNER, [FIRST], EarningFilter(), own[begin].place, 3)
            assert found.get(FIRST, []) == own[begin + 1 : begin + 4]


def test_adding_again_changes_nothing(database: Database, earnings: list[Earning]) -> None:
    with database.begin() as tx:
        tx.earnings.add([(credit(FIRST, earnings), [*earnings, earning(3)])])
        tx.earnings.add([(credit(FIRST, earnings), earnings)])
    with database.read() as tx:
        assert tx.earnings.entries(EARNER, [FIRST], EarningFilter())[FIRST] == [*earnings, earning(3)]


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        (EarningFilter(versions=frozenset(VERSIONS[:1])), [0, 2]),
        (EarningFilter(versions=frozenset()), []),
        (EarningFilter(contribution=(DatanetId(5), 4)), [1, 2]),
        (EarningFilter(frozenset(VERSIONS[1:]), (DatanetId(5), 4)), [1]),
    ],
)
def test_filters_are_those_of_the_domain(
    database: Database, earnings: list[Earning], wanted: EarningFilter, places: list[int]
) -> None:
    with database.read() as tx:
        found = tx.earnings.entries(EARNER, [FIRST], wanted).get(FIRST, [])
    assert [one.receipt for one in found] == places
    assert found == list(filter(wanted.admits, earnings))


def test_sums_are_exact_by_batch_and_key(database: Database, earnings: list[Earning]) -> None:
    with database.read() as tx:
        found = {
            by: sorted(tx.earnings.sums(EARNER, [FIRST, SECOND], EarningFilter(), by), key=repr)
            for by in EarningsBy
        }
    whole = EarningSum(FIRST, (), 3, LARGE + 3)
    assert found[EarningsBy.DAY] == found[EarningsBy.OPERATOR] == [whole]
    assert sorted(found[EarningsBy.ADAPTER], key=lambda one: one.amount) == [
        replace(whole, key=(VERSIONS[1],), num_entries=1, amount=1),
        replace(whole, key=(VERSIONS[0],), num_entries=2, amount=LARGE + 2),
    ]
    assert sorted(found[EarningsBy.CONTRIBUTION], key=lambda one: one.amount) == [
        replace(whole, key=(5, 4), num_entries=2, amount=3),
        replace(whole, key=(None, None), num_entries=1, amount=LARGE),
    ]
