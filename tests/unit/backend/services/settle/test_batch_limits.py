"""What a batch may hold, on receipts in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.batch import MAX_RECEIPT_ENTRIES, MAX_SPANS, OperatorLedger, most_entries
from backend.domain.channels import Channel
from backend.domain.ids import ChannelId, VersionId
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice
from backend.domain.settlement import Backlog
from backend.domain.split import MAX_SHARES, MAX_SLICES
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.settle.pace import PATIENCE_SECONDS, BatchLimits, Pace
from backend.services.settle.select import select
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.services.settle.select import Selection

PAYER = some_account("payer")
THAW = PATIENCE_SECONDS * 16
REST = PATIENCE_SECONDS // 8
NO_LIMIT = BatchLimits(receipts=10**9, entries=10**9, amount=10**30, keys_since=0)


@dataclass
class Unsettled:
    """Unsettled receipts by channel, with the reads of the unit of work that a selection makes."""

    queues: dict[ChannelId, list[SignedReceipt]] = field(default_factory=dict)
    ledger: OperatorLedger = field(default_factory=OperatorLedger)
    num_read: int = 0

    def serve(
        self, channel: ChannelId, charge: int, served_at: int = 0, shares: Sequence[int] = (1,)
    ) -> None:
        """An answer with this charge and a slice for each of these numbers of shares."""
        queue = self.queues.setdefault(channel, [])
        before = queue[-1].receipt.cumulative if queue else self.ledger.collected.get(channel, 0)
        text = some_hash(f"{channel} {before}")
        end = before + charge
        receipt = Receipt(channel, end, charge, text, text, text, 1, 1, text, served_at)
        queue.append(SignedReceipt(receipt, "method", tuple(map(some_slice, shares)), "0x"))

    def backlogs(self) -> list[Backlog]:
        """As `ReceiptStore.backlogs`."""
        found = [
            Backlog(
                channel,
                len(queue),
                sum(s.receipt.charge for s in queue),
                min(s.receipt.served_at for s in queue),
            )
            for channel, queue in self.queues.items()
            if queue
        ]
        return sorted(found, key=lambda backlog: (backlog.oldest_served_at, backlog.channel_id))

    def unsettled(self, channel: ChannelId, after: int, limit: int) -> list[SignedReceipt]:
        found = [s for s in self.queues[channel] if s.receipt.cumulative > after][:limit]
        self.num_read += len(found)
        return found

    def select(
        self, limits: BatchLimits, backlogs: Sequence[Backlog] | None = None
    ) -> dict[ChannelId, Selection]:
        tx: Any = SimpleNamespace(
            chain=SimpleNamespace(channel=self.channel, grants=lambda _: []),
            channels=SimpleNamespace(vouchers=self.vouchers),
            receipts=self,
        )
        validator: Any = SimpleNamespace(rejection=lambda _: "", is_quarantined=lambda _: False)
        chosen = self.backlogs() if backlogs is None else backlogs
        found, skipped = select(
            tx, chosen, self.ledger, validator, SimpleNamespace(signer=lambda _: None), limits
        )  # type: ignore[arg-type]
        assert not skipped
        return found

    def settle(self, found: dict[ChannelId, Selection]) -> list[SignedReceipt]:
        """Commit a batch of these selections; returns its receipts."""
        collected = dict(self.ledger.collected)
        for channel, selection in found.items():
            assert self.queues[channel][: len(selection.receipts)] == list(selection.receipts)
            del self.queues[channel][: len(selection.receipts)]
            collected[channel] = selection.until
        self.ledger = replace(self.ledger, collected=collected)
        return [signed for selection in found.values() for signed in selection.receipts]

    @staticmethod
    def channel(channel: ChannelId) -> Channel:
        party = some_account("party")
        return Channel(channel, PAYER, party, party, balance=10**30, collected=0, thawing=0, thawed_at=0)

    @staticmethod
    def vouchers(channel: ChannelId) -> list[ClientVoucher]:
        return [ClientVoucher(SignedVoucher(Voucher(channel, 0, 10**30), "0x"), PAYER)]


@dataclass
class Batches:
    """Batches of unsettled receipts at a pace, as the settler commits them."""

    pace: Pace
    thaw_seconds: int = THAW
    unsettled: Unsettled = field(default_factory=Unsettled)
    committed: list[tuple[int, list[SignedReceipt]]] = field(default_factory=list)
    """Times and receipts."""

    def run(self, now: int) -> None:
        last = self.committed[-1][0] if self.committed else 0
        has_rested = now - last >= self.pace.rest_seconds(self.thaw_seconds)
        due = self.pace.due(self.unsettled.backlogs(), now, self.thaw_seconds, has_rested=has_rested)
        if not due:
            return
        limits = replace(NO_LIMIT, receipts=self.pace.receipts, entries=self.pace.entries)
        found = self.unsettled.select(limits, due)
        left = limits.without([signed for one in found.values() for signed in one.receipts])
        parts = [(one.amount, one.is_cut) for one in found.values()]
        if has_rested or self.pace.is_worth(parts, is_full=left.is_full):
            self.committed.append((now, self.unsettled.settle(found)))

    def longest_wait(self) -> int:
        return max(at - signed.receipt.served_at for at, batch in self.committed for signed in batch)


def some_channel(number: int) -> ChannelId:
    return ChannelId(some_hash(f"channel {number}"))


def some_slice(num_shares: int) -> Slice:
    return Slice(VersionId(some_hash("version")), 1, tuple(Share(place, 1) for place in range(num_shares)))


def entries_of(receipts: Sequence[SignedReceipt]) -> int:
    return sum(most_entries(signed.slices) for signed in receipts)


answers = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.integers(0, MAX_SHARES), min_size=1, max_size=MAX_SLICES)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(answers, st.integers(1, 20), st.integers(MAX_RECEIPT_ENTRIES, 8 * MAX_RECEIPT_ENTRIES))
def test_batches_hold_no_more_than_their_limits_and_settle_every_receipt_once_in_order(
    served: list[tuple[int, list[int]]], receipts: int, entries: int
) -> None:
    unsettled = Unsettled()
    for number, shares in served:
        unsettled.serve(some_channel(number), 1, shares=shares)
    waiting = [signed for queue in unsettled.queues.values() for signed in queue]
    limits = replace(NO_LIMIT, receipts=receipts, entries=entries)
    settled: list[SignedReceipt] = []
    while unsettled.backlogs():
        batch = unsettled.settle(unsettled.select(limits))
        assert 0 < len(batch) <= receipts
        assert entries_of(batch) <= entries
        assert limits.without(batch).is_full or not unsettled.backlogs()
        settled += batch
    assert len(settled) == len(waiting)
    assert set(map(id_of, settled)) == set(map(id_of, waiting))


def id_of(signed: SignedReceipt) -> tuple[str, int]:
    return signed.receipt.channel_id, signed.receipt.cumulative


def test_the_largest_receipt_always_fits() -> None:
    largest = [MAX_SHARES] * MAX_SLICES
    assert most_entries([some_slice(number) for number in largest]) == MAX_RECEIPT_ENTRIES
    unsettled = Unsettled()
    for _ in range(3):
        unsettled.serve(some_channel(1), 1, shares=largest)
    (found,) = unsettled.select(replace(NO_LIMIT, entries=MAX_RECEIPT_ENTRIES)).values()
    assert len(found.receipts) == 1


def test_a_batch_reads_little_more_of_a_channel_than_it_takes() -> None:
    unsettled = Unsettled()
    for _ in range(2_000):
        unsettled.serve(some_channel(1), 1, shares=[MAX_SHARES] * MAX_SLICES)
    (found,) = unsettled.select(replace(NO_LIMIT, entries=10 * MAX_RECEIPT_ENTRIES)).values()
    assert len(found.receipts) == 10
    assert unsettled.num_read <= 100


def test_a_channel_with_many_receipts_leaves_others_their_share_and_takes_what_they_leave() -> None:
    unsettled = Unsettled()
    largest = [MAX_SHARES] * MAX_SLICES
    for _ in range(100):
        unsettled.serve(some_channel(0), 1, shares=largest)
    for number in range(1, 5):
        unsettled.serve(some_channel(number), 1, served_at=1, shares=largest)
    found = unsettled.select(replace(NO_LIMIT, entries=20 * MAX_RECEIPT_ENTRIES))
    assert sorted(len(selection.receipts) for selection in found.values()) == [1, 1, 1, 1, 16]


def test_a_batch_takes_at_most_256_channels() -> None:
    unsettled = Unsettled()
    for number in range(MAX_SPANS + 1):
        unsettled.serve(some_channel(number), 1)
    assert len(unsettled.select(NO_LIMIT)) == MAX_SPANS


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * PATIENCE_SECONDS), st.integers(0, 9), st.integers(1, 900)),
        min_size=1,
        max_size=60,
    )
)
def test_each_receipt_is_settled_within_the_patience_and_few_batches_collect_little(
    served: list[tuple[int, int, int]],
) -> None:
    batches, poll = Batches(Pace(5, 10_000, min_amount=100)), REST // 6
    start, answers = PATIENCE_SECONDS, sorted(served)
    for now in range(start, start + 5 * PATIENCE_SECONDS, poll):
        while answers and start + answers[0][0] <= now:
            at, number, charge = answers.pop(0)
            batches.unsettled.serve(some_channel(number), charge, served_at=start + at)
        batches.run(now)
    assert not batches.unsettled.backlogs()
    assert sum(len(batch) for _, batch in batches.committed) == len(served)
    assert batches.longest_wait() <= PATIENCE_SECONDS + poll
    for (last, _), (at, batch) in pairwise(batches.committed):
        assert at - last >= REST or sum(signed.receipt.charge for signed in batch) >= 800


def test_channels_that_owe_little_and_began_one_after_another_share_batches() -> None:
    batches, spacing = Batches(Pace(5, 10_000, min_amount=100)), 144
    start = 10 * PATIENCE_SECONDS
    for step in range(3 * PATIENCE_SECONDS // spacing):
        now = start + step * spacing
        batches.unsettled.serve(some_channel(step % 600), 1, served_at=now)
        batches.run(now)
    assert batches.longest_wait() <= PATIENCE_SECONDS + spacing
    assert len(batches.committed) <= 2 * 8 + 1 < 2 * 600


def test_a_channel_that_owes_the_least_amount_again_and_again_shares_batches_with_itself() -> None:
    batches, start = Batches(Pace(5, 10_000, min_amount=100)), 10 * PATIENCE_SECONDS
    for now in range(start, start + 1600, 20):
        batches.unsettled.serve(some_channel(0), 100, served_at=now - 5)
        batches.run(now)
    assert [len(batch) for _, batch in batches.committed] == [1] + 9 * [8]


@pytest.mark.parametrize(("charge", "num_batches"), [(1, 1), (25, 20)])
def test_full_batches_follow_each_other_if_they_collect_the_least_amount(
    charge: int, num_batches: int
) -> None:
    pace = Pace(5, 10_000, min_amount=100, entries=4 * MAX_RECEIPT_ENTRIES)
    batches, start = Batches(pace), 10 * PATIENCE_SECONDS
    for _ in range(80):
        batches.unsettled.serve(some_channel(0), charge, shares=[MAX_SHARES] * MAX_SLICES, served_at=start)
    for second in range(20):
        batches.run(start + PATIENCE_SECONDS + second)
    assert len(batches.committed) == num_batches


def test_batches_of_as_many_channels_as_fit_follow_each_other() -> None:
    batches, start = Batches(Pace(5, 10_000, min_amount=100)), 10 * PATIENCE_SECONDS
    for number in range(2 * MAX_SPANS + 1):
        batches.unsettled.serve(some_channel(number), 1, served_at=start)
    for second in range(3):
        batches.run(start + PATIENCE_SECONDS + second)
    assert [len(batch) for _, batch in batches.committed] == [MAX_SPANS, MAX_SPANS]
    batches.run(start + PATIENCE_SECONDS + 1 + REST)
    assert not batches.unsettled.backlogs()


def test_many_small_channels_with_long_lists_cost_few_batches_and_collections() -> None:
    """More channels than a batch holds, each with more receipts than its share."""
    pace = Pace(5, 10_000, min_amount=100, entries=40 * MAX_RECEIPT_ENTRIES)
    batches, start = Batches(pace), 10 * PATIENCE_SECONDS
    for number in range(MAX_SPANS + 20):
        for _ in range(8):
            batches.unsettled.serve(
                some_channel(number), 1, served_at=start, shares=[MAX_SHARES] * MAX_SLICES
            )
    for second in range(20):
        batches.run(start + PATIENCE_SECONDS + second)
    ((_, batch),) = batches.committed
    assert len({signed.receipt.channel_id for signed in batch}) == 8


def test_small_channels_keep_no_place_from_large_ones_nor_these_from_them() -> None:
    pace = Pace(5, 10_000, min_amount=100, entries=16 * MAX_RECEIPT_ENTRIES)
    batches, start, long = Batches(pace), 10 * PATIENCE_SECONDS, [MAX_SHARES] * MAX_SLICES
    for number in range(40):
        for _ in range(6):
            batches.unsettled.serve(some_channel(number), 1, served_at=start, shares=long)
    for number in range(40, 48):
        for _ in range(6):
            batches.unsettled.serve(some_channel(number), 300, served_at=start + 1, shares=long)
    batches.run(start + PATIENCE_SECONDS)
    ((_, batch),) = batches.committed
    large = {some_channel(number) for number in range(40, 48)}
    charges = {signed.receipt.channel_id: signed.receipt.charge for signed in batch}
    assert sorted(charges.values()) == [1] + 7 * [300]
    assert len(large & charges.keys()) == 7


def test_a_batch_from_which_the_chain_refuses_a_channel_must_be_worth_it_without() -> None:
    pace = Pace(5, 10_000, min_amount=100)
    assert pace.is_worth([(799, False), (1, False)], is_full=False)
    assert not pace.is_worth([(799, False)], is_full=False)


def test_without_a_least_amount_each_receipt_makes_a_batch_due() -> None:
    batches, start = Batches(Pace(5, 10_000)), 10 * PATIENCE_SECONDS
    for now in range(start, start + 100, 10):
        batches.unsettled.serve(some_channel(0), 1, served_at=now - 5)
        batches.run(now)
    assert len(batches.committed) == 10
