from __future__ import annotations

from dataclasses import replace
from time import process_time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.batch import CommitTerms, OperatorLedger, build, most_entries, spans_hash
from backend.domain.entries import entry_key
from backend.domain.errors import NotFound
from backend.domain.hashing import attribution_hash, receipt_id, slices_hash, to_bytes
from backend.domain.ids import ZERO_HASH, VersionId
from backend.domain.merkle import BALANCES_TAG, ENTRIES_TAG, RECEIPTS_TAG, resolve
from backend.domain.money import PPM
from backend.domain.receipt import Share, SignedReceipt, Slice
from backend.domain.rules import BadReceipt, Rules, from_position, to_position
from tests.support.market import Market, in_order, parameter_set, some_account

if TYPE_CHECKING:
    from collections.abc import Callable

seeds = st.integers(0, 1 << 32)


@given(st.integers(0, 3), st.integers(0, (1 << 24) - 1))
def test_a_position_is_a_snapshots_number_and_an_index(snapshot: int, index: int) -> None:
    position = to_position(snapshot, index)
    assert position == snapshot * 2**24 + index
    assert from_position(position) == (snapshot, index)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 30))
def test_every_micro_unit_is_covered_by_exactly_one_receipt(seed: int, count: int) -> None:
    batch = Market(seed).batch(Market(seed).receipts(count))
    offset = 0
    for span in batch.spans:
        inside = [s.receipt for s in batch.receipts if s.receipt.channel_id == span.channel_id]
        at = span.start
        for receipt in inside:
            index = next(i for i, s in enumerate(batch.receipts) if s.receipt == receipt)
            opened = resolve(
                RECEIPTS_TAG, to_bytes(receipt_id(receipt)), len(batch.receipts), batch.open_receipt(index)
            )
            assert opened.prefix == offset + receipt.cumulative - receipt.charge - span.start
            assert receipt.cumulative - receipt.charge == at
            at = receipt.cumulative
        assert at == span.until
        offset += span.amount
    assert offset == batch.total


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 30))
def test_a_batch_has_no_more_entries_than_its_receipts_may_have(seed: int, count: int) -> None:
    market = Market(seed)
    batch, rules = market.batch(market.receipts(count)), Rules(market)
    earnings = [rules.earnings(s, rules.charges(s), batch.operator, market.terms) for s in batch.receipts]
    num_zero = sum(amount == 0 for slices in earnings for parts in slices for _, amount in parts)
    assert batch.entries_tree.count + num_zero == sum(most_entries(s.slices) for s in batch.receipts)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 20), st.integers(1, 20))
def test_the_three_trees_have_consistent_totals(seed: int, first: int, second: int) -> None:
    market = Market(seed)
    one = market.batch(market.receipts(first))
    ledger = one.after(one.header(CommitTerms(10, 70), ZERO_HASH))
    two = market.batch(market.receipts(second), ledger)
    for batch in (one, two):
        assert batch.receipts_tree.total == batch.entries_tree.total == batch.total
        assert batch.total == sum(s.receipt.charge for s in batch.receipts)
    assert one.balances_tree.total == one.total
    assert two.balances_tree.total == ledger.cumulative_total + two.total
    assert ledger.collected == {span.channel_id: span.until for span in one.spans}


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_every_entry_and_balance_can_be_opened(seed: int) -> None:
    market = Market(seed)
    batch = market.batch(market.receipts(6))
    found = 0
    for index, signed in enumerate(batch.receipts):
        charges = Rules(market).charges(signed)
        for number, parts in enumerate(Rules(market).earnings(signed, charges, batch.operator, market.terms)):
            for part, (account, value) in enumerate(parts):
                name = "0x" + account.hex()
                if value == 0:
                    with pytest.raises(NotFound):
                        batch.open_entry(name, index, number, part)
                    continue
                opening = batch.open_entry(name, index, number, part)
                key = entry_key(account, index, number, part)
                opened = resolve(ENTRIES_TAG, key, batch.entries_tree.count, opening)
                assert (opening.value, opened.root) == (value, batch.entries_tree.root)
                found += 1
    assert found == batch.entries_tree.count
    ledger = batch.after(batch.header(CommitTerms(), ZERO_HASH))
    for account, value in batch.balances.items():
        opening = ledger.open_balance(account)
        opened = resolve(BALANCES_TAG, bytes(12) + to_bytes(account), len(batch.balances), opening)
        assert (opening.value, opened.root) == (value, batch.balances_tree.root)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_entries_of_all_accounts_are_all_entries(seed: int) -> None:
    market = Market(seed)
    batch = market.batch(market.receipts(5))
    found = [entry for account in batch.balances for entry in batch.entries.of(account)]
    assert len(found) == batch.entries_tree.count
    assert sum(entry.value for entry in found) == batch.total
    for entry in found:
        opening = batch.open_entry(entry.account, entry.receipt, entry.slice, entry.part)
        assert opening.value == entry.value
    assert list(batch.entries.of(some_account("outsider"))) == []


def test_an_account_without_balance_has_no_opening() -> None:
    market = Market()
    batch = market.batch(market.receipts(1))
    with pytest.raises(NotFound):
        batch.after(batch.header(CommitTerms(), ZERO_HASH)).open_balance(some_account("outsider"))


def test_a_waived_interval_is_left_out_of_the_span() -> None:
    market = Market()
    channel = market.channels[0]
    receipts = [market.serve(channel) for _ in range(3)]
    start = receipts[0].receipt.cumulative
    (span,) = market.batch(receipts[1:]).spans
    assert (span.before, span.start, span.until) == (0, start, market.cumulative[channel])


def test_the_next_batch_starts_where_the_last_ended() -> None:
    market = Market()
    channel = market.channels[0]
    first = market.batch([market.serve(channel)])
    ledger = first.after(first.header(CommitTerms(), ZERO_HASH))
    (span,) = market.batch([market.serve(channel)], ledger).spans
    assert span.before == span.start == first.spans[0].until


def test_a_receipt_cannot_be_settled_twice() -> None:
    market = Market()
    receipts = market.receipts(3)
    batch = market.batch(receipts)
    with pytest.raises(BadReceipt) as caught:
        market.batch(receipts, batch.after(batch.header(CommitTerms(), ZERO_HASH)))
    assert caught.value.param == "cumulative"


def changed(signed: SignedReceipt, **fields: object) -> SignedReceipt:
    return replace(signed, receipt=replace(signed.receipt, **fields))


def with_slices(market: Market, signed: SignedReceipt, slices: tuple[Slice, ...]) -> SignedReceipt:
    """Recompute the hashes, so that only the slices are wrong."""
    hashes = {
        "slices_hash": slices_hash(slices),
        "attribution_hash": attribution_hash(signed.method, slices),
    }
    return market.sign(replace(signed.receipt, **hashes), slices)


HALVES = (Share(0, 500_000), Share(1, 500_000))
BASE, ADAPTER = list(Market().records)[:2]
WRONG_FIELDS = {
    "tokens": ("charge", {"prompt_tokens": 51}),
    "hash of slices": ("slices_hash", {"slices_hash": ZERO_HASH}),
    "hash of lists": ("attribution_hash", {"attribution_hash": ZERO_HASH}),
}
WRONG_SLICES = {
    "no slices": ("slices", ()),
    "five slices": ("slices", (Slice(BASE, PPM // 5, ()),) * 5),
    "weights": ("slices", (Slice(BASE, PPM - 1, ()),)),
    "no weight": ("slices", (Slice(BASE, PPM, ()), Slice(BASE, 0, ()))),
    "unknown version": ("version_id", (Slice(VersionId(ZERO_HASH), PPM, HALVES),)),
    "order of positions": ("list", (Slice(ADAPTER, PPM, HALVES[::-1]),)),
    "position twice": ("list", (Slice(ADAPTER, PPM, HALVES[:1] * 2),)),
    "sum of list": ("list", (Slice(ADAPTER, PPM, HALVES[:1]),)),
    "part of zero": ("list", (Slice(ADAPTER, PPM, (Share(0, 0), Share(1, PPM))),)),
    "index outside": ("list", (Slice(ADAPTER, PPM, (Share(5, PPM),)),)),
    "snapshot outside": ("list", (Slice(ADAPTER, PPM, (Share(1 << 24, PPM),)),)),
    "empty list": ("list", (Slice(ADAPTER, PPM, ()),)),
    "list without snapshot": ("list", (Slice(BASE, PPM, HALVES),)),
}


def assert_refused(field: str, corrupt: Callable[[Market, SignedReceipt], SignedReceipt]) -> None:
    market = Market()
    receipts = [market.serve(market.channels[0]) for _ in range(3)]
    receipts[2] = corrupt(market, receipts[2])
    with pytest.raises(BadReceipt) as caught:
        market.batch(receipts)
    assert (caught.value.param, caught.value.details["index"]) == (field, 2)


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_receipt_with_a_wrong_field_is_reported_with_its_index(name: str) -> None:
    field, values = WRONG_FIELDS[name]
    assert_refused(field, lambda _, signed: changed(signed, **values))


@pytest.mark.parametrize("name", WRONG_SLICES)
def test_a_receipt_with_wrong_slices_is_reported_with_its_index(name: str) -> None:
    field, slices = WRONG_SLICES[name]
    assert_refused(field, lambda market, signed: with_slices(market, signed, slices))


def test_an_overcharge_is_refused_even_at_the_right_cumulative() -> None:
    def overcharge(_: Market, signed: SignedReceipt) -> SignedReceipt:
        r = signed.receipt
        return changed(signed, cumulative=r.cumulative + 1, charge=r.charge + 1)

    assert_refused("charge", overcharge)


def test_gaps_overlaps_and_wrong_order_are_refused() -> None:
    market = Market()
    one, two, three = (market.serve(market.channels[0]) for _ in range(3))
    for receipts, index in (([one, three], 1), ([one, one, two], 1), ([two, one], 1)):
        with pytest.raises(BadReceipt) as caught:
            market.batch(receipts)
        assert (caught.value.param, caught.value.details["index"]) == ("cumulative", index)
    other = market.serve(market.channels[1])
    with pytest.raises(BadReceipt) as caught:
        market.batch([other, one])
    assert caught.value.param == "channel_id"


def test_the_first_wrong_receipt_is_reported() -> None:
    market = Market()
    one, two, three = (market.serve(market.channels[0]) for _ in range(3))
    with pytest.raises(BadReceipt) as caught:
        market.batch([changed(one, slices_hash=ZERO_HASH), three])
    assert (caught.value.param, caught.value.details["index"]) == ("slices_hash", 0)
    assert two


def test_receipts_without_charge_are_refused() -> None:
    market = Market()
    free = replace(next(iter(market.records.values())), prompt_price=0, completion_price=0)
    version = next(iter(market.records))
    market.records[version] = free
    signed = market.serve(market.channels[0])
    signed = with_slices(market, changed(signed, charge=0, cumulative=0), (Slice(version, PPM, ()),))
    with pytest.raises(BadReceipt, match="no receipt without charge"):
        market.batch([signed])


def test_the_fee_is_that_of_the_named_parameter_set() -> None:
    market = Market(1)
    receipts = market.receipts(5)
    treasury = some_account("treasury")
    paid = []
    for fee in (0, 100_000, 200_000):
        batch = build(market.operator, OperatorLedger(), parameter_set(1, fee), receipts, Rules(market))
        paid.append(batch.balances.get(treasury, 0))
    assert paid[0] < paid[1] < paid[2]


def test_spans_are_packed_80_bytes_each() -> None:
    assert spans_hash([]) == "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@pytest.mark.deep
def test_ten_thousand_receipts_of_64_contributors_build_within_30_seconds() -> None:
    market = Market(3, num_channels=20, num_contributors=64)
    receipts = in_order([market.serve() for _ in range(10_000)])
    began = process_time()
    batch = market.batch(receipts)
    assert process_time() - began < 30
    assert batch.entries_tree.total == batch.total
