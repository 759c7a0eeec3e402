from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete

from backend.db.earnings import EarningStore
from backend.db.tables.settlement import LedgerRow
from backend.domain.content import cid_of
from backend.domain.earnings import EarningFilter, EarningsBy, EarningState
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.ids import DatanetId
from backend.domain.registries import Operator
from backend.services.accounts import credit_walk
from backend.services.accounts.credit_walk import EarningsQuery, Position, StaleCursor
from backend.services.audit import cases
from backend.services.audit import earnings as audited
from backend.services.market.catalogue import ModelNotFound
from tests.support.chain_view import batches_read
from tests.support.market import some_account, some_hash
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle, settle_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.domain.earnings import Credit, Earning
    from backend.domain.ids import Account
    from backend.domain.settlement import CommittedBatch
    from backend.services.accounts.earnings import ListedEarning

CREATOR, TREASURY, OPERATOR = some_account("creator 1"), some_account("treasury"), some_account("operator")
CONTRIBUTOR = some_account("contributor 2")
"""In the order of a batch's accounts after `OPERATOR`."""
DAY = timedelta(days=1)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path, max_price=500_000)
    yield harness
    harness.database.close()


def listed(harness: SettlementHarness, query: EarningsQuery, limit: int = 100) -> list[ListedEarning]:
    earnings, found = harness.earnings(), []
    page = earnings.entries(query, None, limit)
    while page.rest is not None:
        found += page.entries
        page = earnings.entries(query, page.rest, limit)
    return [*found, *page.entries]


def forget_ledgers(harness: SettlementHarness) -> None:
    """So that the batches are audited again."""
    with harness.begin() as tx:
        tx.session.execute(delete(LedgerRow))


def forget_data(harness: SettlementHarness) -> None:
    harness.blobs.forget(*(cid_of(batch.header["dataDigest"]) for batch in harness.chain.committed))


def stored(harness: SettlementHarness, account: Account) -> int:
    with harness.read() as tx:
        return sum(credit.num_entries for credit in tx.earnings.credits(account, OPERATOR, 1000, 1000))


def test_entries_are_stored_for_accounts_that_signed_in_before_the_audit(harness: SettlementHarness) -> None:
    harness.sign_in(CREATOR)
    settle_batches(harness, 2)
    entries = listed(harness, EarningsQuery(CREATOR))
    assert stored(harness, CREATOR) == len(entries) > 0
    assert stored(harness, TREASURY) == 0


def test_entries_of_other_accounts_are_the_same_read_from_the_data(harness: SettlementHarness) -> None:
    settle_batches(harness, 3)
    before = listed(harness, EarningsQuery(CREATOR), limit=2)
    harness.sign_in(CREATOR)
    forget_ledgers(harness)
    assert listed(harness, EarningsQuery(CREATOR)) == before
    assert stored(harness, CREATOR) == len(before)


def test_what_is_read_for_an_account_that_signed_in_is_stored(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_batches(harness, 4)
    whole = listed(harness, EarningsQuery(CREATOR))
    assert stored(harness, CREATOR) == 0
    harness.sign_in(CREATOR)
    monkeypatch.setattr(credit_walk, "MAX_RECEIPTS_READ", 3)
    assert listed(harness, EarningsQuery(CREATOR), limit=2) == whole
    assert stored(harness, CREATOR) == len(whole)
    forget_data(harness)
    assert listed(harness, EarningsQuery(CREATOR)) == whole


def test_nothing_is_stored_of_a_walk_during_which_its_batches_become_void(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if others with the same numbers replace them: their balances are others."""
    monkeypatch.setattr(credit_walk, "CHUNK", 1)
    settle_batches(harness, 4)
    harness.auditor().follow(OPERATOR)
    harness.sign_in(TREASURY)
    of, read = audited.PublishedEntries.of, []

    def replaced(self: audited.PublishedEntries, batch: CommittedBatch, account: Account) -> list[Earning]:
        found = of(self, batch, account)
        if not read:
            harness.chain.convict(1)
            settle(harness)
            settle_batches(harness, 3, answers=1)
        read.append(batch.hash)
        return found

    monkeypatch.setattr(audited.PublishedEntries, "of", replaced)
    with pytest.raises(Unavailable, match=r"batch 3 .* became invalid"):
        harness.earnings().entries(EarningsQuery(TREASURY), None, 100)
    assert len(read) == 1
    monkeypatch.undo()
    entries = listed(harness, EarningsQuery(TREASURY))
    balance = harness.auditor().follow(OPERATOR).balances[TREASURY]
    assert sum(entry.earning.amount for entry in entries) == balance


@pytest.mark.parametrize("error", [-1, 1, 10**9])
def test_nothing_is_stored_that_relies_on_a_cursors_balance(harness: SettlementHarness, error: int) -> None:
    settle_batches(harness, 3)
    harness.auditor().follow(OPERATOR)
    harness.sign_in(CREATOR)
    batch = harness.chain.committed[1]
    start = Position(OPERATOR, batch.hash, -1, 10**6 + error)
    assert harness.earnings().entries(EarningsQuery(CREATOR), start, 100).entries
    assert stored(harness, CREATOR) == 0


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_stored_entries_are_the_same_on_pages_of_any_size(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    harness.sign_in(TREASURY)
    settle_batches(harness, 3)
    whole = listed(harness, EarningsQuery(TREASURY), limit=1000)
    monkeypatch.setattr(credit_walk, "CHUNK", 1 if limit < 5 else 2)
    assert stored(harness, TREASURY) == len(whole) > 5
    assert listed(harness, EarningsQuery(TREASURY), limit) == whole


@pytest.mark.parametrize("place", ["-2", str(1 << 64)])
def test_a_place_that_no_entry_has_is_no_position(place: str) -> None:
    with pytest.raises(ValueError, match="place"):
        Position.parse(f"{OPERATOR}:{some_hash('batch')}:{place}:0")


def test_a_second_audit_stores_nothing_twice(harness: SettlementHarness) -> None:
    harness.sign_in(CREATOR)
    settle_batches(harness, 2)
    before = listed(harness, EarningsQuery(CREATOR))
    forget_ledgers(harness)
    assert listed(harness, EarningsQuery(CREATOR)) == before
    assert stored(harness, CREATOR) == len(before)


def test_the_newest_batch_comes_first(harness: SettlementHarness) -> None:
    settle_batches(harness, 3)
    found = listed(harness, EarningsQuery(TREASURY), limit=3)
    places = [(-entry.credit.number, entry.earning.place) for entry in found]
    assert places == sorted(places)
    assert len(set(places)) == len(places)


def test_a_page_reads_the_batches_that_it_lists(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator commits some fifty thousand in a year."""
    monkeypatch.setattr(credit_walk, "CHUNK", 1)
    harness.sign_in(TREASURY)
    settle_batches(harness, 6)
    harness.auditor().follow(harness.market.operator)
    read, credits_, numbers = batches_read(harness.chain, monkeypatch), EarningStore.credits, []

    def noted(*query: Any) -> list[Credit]:
        found = credits_(*query)
        numbers.extend(credit.number for credit in found)
        return found

    monkeypatch.setattr(EarningStore, "credits", noted)
    page = harness.earnings().entries(EarningsQuery(TREASURY), None, 1)
    assert page.rest is not None
    assert min(read) >= 4
    assert min(numbers) >= 4
    read.clear()
    assert not harness.earnings().entries(EarningsQuery(some_account("nobody")), None, 1).entries
    assert set(read) == {6}


def test_a_walk_goes_from_one_stored_credit_to_the_next(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credit_walk, "CHUNK", 1)
    numbers = range(1, 9)
    settle_batches(harness, len(numbers), answers=1)
    auditor, operator = harness.auditor(), harness.market.operator
    paid = {number: auditor.batch(operator, number).entries.accounts for number in numbers}
    num_batches = Counter(account for accounts in paid.values() for account in accounts)
    account = min(num_batches, key=lambda one: (num_batches[one], one))
    credited = {number for number in numbers if account in paid[number]}
    assert len(credited) < len(numbers) // 2
    harness.sign_in(account)
    forget_ledgers(harness)
    auditor.follow(operator)
    read = batches_read(harness.chain, monkeypatch)
    assert listed(harness, EarningsQuery(account))
    assert set(read) == credited | {len(numbers)}, "the newest, for its balance"


def test_a_request_reads_a_bounded_number_of_receipts(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_batches(harness, 5, answers=2)
    whole = listed(harness, EarningsQuery(TREASURY), limit=1000)
    monkeypatch.setattr(credit_walk, "MAX_RECEIPTS_READ", 4)
    page = harness.earnings().entries(EarningsQuery(TREASURY), None, 1000)
    assert {entry.credit.number for entry in page.entries} == {5, 4}
    assert page.rest is not None
    assert listed(harness, EarningsQuery(TREASURY), limit=1000) == whole


def test_a_batch_above_the_bound_is_read_alone(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_batches(harness, 2)
    monkeypatch.setattr(credit_walk, "MAX_RECEIPTS_READ", 1)
    page = harness.earnings().entries(EarningsQuery(TREASURY), None, 1000)
    assert {entry.credit.number for entry in page.entries} == {2}


def test_no_data_is_read_for_an_account_that_earned_nothing(harness: SettlementHarness) -> None:
    settle_batches(harness, 2)
    harness.auditor().follow(OPERATOR)
    forget_data(harness)
    page = harness.earnings().entries(EarningsQuery(some_account("nobody")), None, 10)
    assert (page.entries, page.rest, page.unverifiable) == ((), None, ())


def test_filters_choose_among_the_entries(harness: SettlementHarness) -> None:
    harness.sign_in(TREASURY)
    contributor = some_account("contributor 2")
    settle_batches(harness, 4, answers=4)
    for account in (TREASURY, contributor):  # stored, and read from the data
        whole = listed(harness, EarningsQuery(account))
        for wanted, is_wanted in filters(whole):
            found = listed(harness, EarningsQuery(account, wanted=wanted), limit=2)
            assert found == [entry for entry in whole if is_wanted(entry.earning)]
            for by in EarningsBy:
                summary = harness.earnings().summary(EarningsQuery(account, wanted=wanted), by, None)
                assert sum(g.amount for g in summary.groups) == sum(e.earning.amount for e in found)


def filters(whole: list[ListedEarning]) -> list[tuple[EarningFilter, Callable[[Earning], bool]]]:
    version = whole[0].earning.version_id
    by_version = EarningFilter(versions=frozenset([version]))
    by_contribution = EarningFilter(contribution=(DatanetId(1), 2))
    return [
        (by_version, lambda earning: earning.version_id == version),
        (by_contribution, lambda earning: (earning.datanet, earning.contribution) == (1, 2)),
    ]


def test_days_are_those_of_the_commits_both_included(harness: SettlementHarness) -> None:
    start = datetime.fromtimestamp(harness.chain.time, UTC).date()
    for _ in range(3):
        settle_batches(harness, 1)
        harness.chain.time += 86_400
    found = listed(harness, EarningsQuery(TREASURY, since=start + DAY, until=start + DAY))
    assert {entry.credit.number for entry in found} == {2}
    summary = harness.earnings().summary(EarningsQuery(TREASURY), EarningsBy.DAY, None)
    assert [group.key for group in summary.groups] == [(start + n * DAY).isoformat() for n in (2, 1, 0)]


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"`since` \(2026-11-02\) is after `until` \(2026-11-01\)"):
        EarningsQuery(CREATOR, since=date(2026, 11, 2), until=date(2026, 11, 1))


def test_entries_of_a_void_batch_are_listed_apart(harness: SettlementHarness) -> None:
    harness.sign_in(CREATOR)
    settle_batches(harness, 2)
    harness.auditor().follow(OPERATOR)
    before = listed(harness, EarningsQuery(CREATOR))
    harness.chain.convict(1)
    assert listed(harness, EarningsQuery(CREATOR)) == []
    for account in (CREATOR, TREASURY):
        void = listed(harness, EarningsQuery(account, state=EarningState.VOID), limit=1)
        assert {entry.state for entry in void} == {EarningState.VOID}
        summary = harness.earnings().summary(
            EarningsQuery(account, state=EarningState.VOID), EarningsBy.OPERATOR, None
        )
        assert [group.amount for group in summary.groups] == [sum(e.earning.amount for e in void)]
    void = listed(harness, EarningsQuery(CREATOR, state=EarningState.VOID))
    assert [entry.earning for entry in void] == [entry.earning for entry in before]
    settle(harness)
    again = listed(harness, EarningsQuery(CREATOR))
    assert sum(e.earning.amount for e in again) == sum(e.earning.amount for e in before)


def test_states_follow_the_batch_and_the_claims(harness: SettlementHarness) -> None:
    settle_batches(harness, 2, answers=8)
    harness.chain.time += 60
    harness.settler().finalise()
    harness.mine()
    harness.claims().relay(OPERATOR, TREASURY)
    harness.mine()
    settle_batches(harness, 1, answers=8)
    states = {entry.credit.number: entry.state for entry in listed(harness, EarningsQuery(TREASURY))}
    assert states == {3: "pending", 2: "claimed", 1: "claimed"}
    assert {entry.state for entry in listed(harness, EarningsQuery(CREATOR))} == {"pending", "final"}
    (group,) = harness.earnings().summary(EarningsQuery(TREASURY), EarningsBy.OPERATOR, None).groups
    assert group.amount == group.pending + group.claimed
    assert group.final == 0
    only = listed(harness, EarningsQuery(TREASURY, state=EarningState.PENDING))
    assert {entry.credit.number for entry in only} == {3}


def test_a_cursor_whose_batch_was_voided_is_refused(harness: SettlementHarness) -> None:
    settle_batches(harness, 2)
    page = harness.earnings().entries(EarningsQuery(TREASURY), None, 1)
    harness.chain.convict(1)
    settle(harness)
    with pytest.raises(StaleCursor, match="not valid any more; omit `after`"):
        harness.earnings().entries(EarningsQuery(TREASURY), page.rest, 1)


def test_a_cursor_of_an_unknown_operator_is_refused(harness: SettlementHarness) -> None:
    settle_batches(harness, 1)
    start = Position(some_account("x"), some_hash("batch"), 0, 1)
    with pytest.raises(StaleCursor):
        harness.earnings().entries(EarningsQuery(TREASURY), start, 1)


def test_a_page_comes_to_a_bounded_number_of_operators_and_says_where_the_next_begins(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_batches(harness, 1)
    whole = listed(harness, EarningsQuery(TREASURY))
    first, second, last = (some_account(name) for name in "abc")
    (batch,) = harness.chain.committed
    wrong = [replace(batch, operator=one, hash=some_hash(one)) for one in (first, second, last)]
    harness.chain.committed[:] = [*wrong[:2], batch, wrong[2]]
    monkeypatch.setattr(credit_walk, "MAX_OPERATORS", 2)
    earnings, query = harness.earnings(), EarningsQuery(TREASURY)
    pages = [earnings.entries(query, None, 1000)]
    while rest := pages[-1].rest:
        pages.append(earnings.entries(query, Position.parse(str(rest)), 1000))
    assert [list(page.entries) for page in pages] == [[], whole]
    assert [{one.operator for one in page.unverifiable} for page in pages] == [{first, second}, {last}]
    summary = earnings.summary(query, EarningsBy.DAY, None)
    assert (summary.groups, summary.rest) == ((), pages[0].rest)


def test_an_operator_that_cannot_be_verified_is_named_and_hides_nothing_of_others(
    harness: SettlementHarness,
) -> None:
    settle_batches(harness, 1)
    whole = listed(harness, EarningsQuery(TREASURY))
    other = some_account("another operator")
    harness.chain.others.append(Operator(other, "", (), 0))
    (batch,) = harness.chain.committed
    harness.chain.committed.append(replace(batch, operator=other, hash=some_hash("other")))
    page = harness.earnings().entries(EarningsQuery(TREASURY), None, 1000)
    assert list(page.entries) == whole
    (unverifiable,) = page.unverifiable
    assert unverifiable.operator == other
    assert "is wrong" in unverifiable.reason


def test_missing_data_of_a_verified_batch_is_named(harness: SettlementHarness) -> None:
    settle_batches(harness, 1)
    harness.auditor().follow(OPERATOR)
    forget_data(harness)
    with pytest.raises(Unavailable, match=r"entries of batch 1 of .* cannot be read: no operator serves"):
        harness.earnings().entries(EarningsQuery(TREASURY), None, 10)


def test_names_of_adapters_are_those_of_the_catalogue(harness: SettlementHarness) -> None:
    settle_batches(harness, 2)
    by = harness.earnings().summary(EarningsQuery(TREASURY), EarningsBy.ADAPTER, None)
    for group in by.groups:
        record = harness.market.version(group.key)
        assert group.adapter == f"{record.creator}/{record.name}@{group.key[2:14]}"


def test_an_unknown_adapter_is_refused(harness: SettlementHarness) -> None:
    with pytest.raises(ModelNotFound, match="No adapter 'x/y' is registered"):
        harness.earnings().versions("x/y")


def test_a_batch_with_too_many_entries_to_list_is_named_and_hides_no_other(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its operator can put as many in it for any account."""
    for answers in (1, 6, 1):
        settle_batches(harness, 1, answers=answers)
    query = EarningsQuery(TREASURY)
    whole = listed(harness, query)
    counts = Counter(entry.credit.number for entry in whole)
    monkeypatch.setattr(audited, "MAX_ENTRIES", counts[2] - 1)
    page = harness.earnings().entries(query, None, 100)
    assert list(page.entries) == [entry for entry in whole if entry.credit.number != 2]
    (unlisted,) = page.unverifiable
    assert unlisted.operator == OPERATOR
    assert unlisted.reason == f"batch 2: {TREASURY} has {counts[2]} entries in one batch, too many to list"
    summary = harness.earnings().summary(query, EarningsBy.OPERATOR, None)
    assert sum(g.amount for g in summary.groups) == sum(e.earning.amount for e in page.entries)
    assert summary.unverifiable == page.unverifiable
    harness.chain.convict(1)
    void = listed(harness, EarningsQuery(TREASURY, state=EarningState.VOID))
    assert {entry.credit.number for entry in void} == {1, 3}


def test_an_account_with_too_many_entries_keeps_those_of_no_other_from_the_store(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_batches(harness, 1, answers=6)
    count = {account: len(listed(harness, EarningsQuery(account))) for account in (OPERATOR, CONTRIBUTOR)}
    assert count[OPERATOR] > count[CONTRIBUTOR] > 0
    for account in (OPERATOR, CONTRIBUTOR):
        harness.sign_in(account)
    forget_ledgers(harness)
    monkeypatch.setattr(audited, "MAX_ENTRIES", count[CONTRIBUTOR])
    harness.auditor().follow(OPERATOR)
    assert (stored(harness, OPERATOR), stored(harness, CONTRIBUTOR)) == (0, count[CONTRIBUTOR])


def test_void_batches_are_not_left_out_while_another_large_batch_is_read(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_batches(harness, 1)
    harness.chain.convict(1)
    monkeypatch.setattr(cases, "SMALL_DATA_BYTES", 0)
    monkeypatch.setattr(cases, "WAIT_SECONDS", 0.01)
    with ThreadPoolExecutor(1) as other:
        other.submit(cases._large.acquire).result()
        try:
            with pytest.raises(Unavailable, match="another large batch"):
                listed(harness, EarningsQuery(TREASURY, state=EarningState.VOID))
        finally:
            other.submit(cases._large.release).result()
