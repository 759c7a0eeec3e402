"""What a batch may hold, on receipts in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.batch import MAX_RECEIPT_ENTRIES, MAX_SPANS, OperatorLedger, most_entries
from backend.domain.channels import Channel
from backend.domain.ids import ChannelId, VersionId
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice
from backend.domain.settlement import Backlog
from backend.domain.split import MAX_SHARES, MAX_SLICES
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.settle.pace import BatchLimits
from backend.services.settle.select import select
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.services.settle.select import Selection

PAYER = some_account("payer")
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


def test_a_batch_takes_at_most_256_channels() -> None:
    unsettled = Unsettled()
    for number in range(MAX_SPANS + 1):
        unsettled.serve(some_channel(number), 1)
    assert len(unsettled.select(NO_LIMIT)) == MAX_SPANS
