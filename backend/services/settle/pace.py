"""When receipts are settled, and how much of them one batch may hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.domain.batch import MAX_RECEIPT_ENTRIES, MAX_SPANS, most_entries
from backend.domain.money import most_covered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import Backlog
    from backend.ports.chain import Chain

PATIENCE_SECONDS = 86_400
"""Age of the oldest receipt by which a batch collects from a channel that owes less than the least amount;
less if `1 / PARTS_OF_THAW` of the vault's thaw is shorter.
"""
PARTS_OF_THAW = 8
PARTS_OF_PATIENCE = 8
"""Most batches that are not worth their gas in the time of the patience."""
COLLECTIONS_OF_BATCH = 8
"""Gas of a batch's commit and finalisation, in collections: (89,737 + 49,208) / 18,915, rounded up."""
BATCH_ENTRIES = 500_000
"""Most entries of a batch, by `most_entries`: what limits the memory of all who build it."""
PARTS_OF_BATCH = 8
"""A channel has at most this part of a batch while others need it, so that few channels of a batch are cut:
each is collected from again. Of so many channels in turn one owes less than the least amount.
"""


@dataclass(frozen=True, slots=True)
class Pace:
    """A batch is due once a receipt is `seconds` old or `receipts` are unsettled, which is also its limit.
    Further ones, and those with more than `entries`, come with the next batches.

    The gas of a batch and of a collection does not depend on its amount, and anyone can pay for tiny answers.
    So a batch leaves out channels that owe less than `min_amount` micro-units until seven eighths of the
    patience are over, and one that is not worth its gas follows the last one after the other eighth.
    """

    seconds: float
    receipts: int
    min_amount: int = 0
    entries: int = BATCH_ENTRIES

    def rest_seconds(self, thaw_seconds: int) -> int:
        """Seconds from the last batch to one that is not worth its gas."""
        return _patience(thaw_seconds) // PARTS_OF_PATIENCE

    def due(
        self, backlogs: Sequence[Backlog], now: int, thaw_seconds: int, *, has_rested: bool
    ) -> list[Backlog]:
        """The channels to collect from; none while no batch is due. `has_rested`: whether `rest_seconds` have
        passed since the last batch. The selected receipts must be due, and worth it, too: others of these
        channels may never be settled.
        """
        latest = now - _patience(thaw_seconds) + self.rest_seconds(thaw_seconds)
        chosen = [b for b in backlogs if b.amount >= self.min_amount or b.oldest_served_at <= latest]
        num_receipts = sum(backlog.num_receipts for backlog in chosen)
        is_full = num_receipts >= self.receipts
        is_due = self.is_due([backlog.oldest_served_at for backlog in chosen], now, is_full=is_full)
        may_fill = is_full or num_receipts * MAX_RECEIPT_ENTRIES > self.entries - MAX_RECEIPT_ENTRIES
        may_be_worth = has_rested or self.is_worth([(b.amount, False) for b in chosen], is_full=may_fill)
        return self._in_turn(chosen) if is_due and may_be_worth else []

    def is_due(self, served_at: Sequence[int], now: int, *, is_full: bool) -> bool:
        """Whether a batch is due. `served_at`: of each channel, when its oldest receipt was served."""
        return is_full or any(now - oldest >= self.seconds for oldest in served_at)

    def is_worth(self, parts: Sequence[tuple[int, bool]], *, is_full: bool) -> bool:
        """Whether a batch is worth its gas. `parts`: of each channel, the micro-units that it collects, and
        whether it leaves receipts that would fit no more.

        A full one gains nothing by waiting, so that it needs less. The gas of its own is small compared with
        that of collections from as many channels as it can hold. Channels that are collected from again
        soon, and of which it collects less than the least amount, must be paid for by the others.
        """
        num_again = sum(is_cut and amount < self.min_amount for amount, is_cut in parts)
        least = self.min_amount * max(num_again, 1 if is_full else COLLECTIONS_OF_BATCH)
        is_wide = len(parts) - num_again >= min(MAX_SPANS, self.receipts)
        return is_wide or sum(amount for amount, _ in parts) >= least

    def _in_turn(self, backlogs: Sequence[Backlog]) -> list[Backlog]:
        """Channels that owe the least amount, and after each seven of them one that does not: many small ones
        never keep the others out, nor the others them.
        """
        large = [backlog for backlog in backlogs if backlog.amount >= self.min_amount]
        small = [backlog for backlog in backlogs if backlog.amount < self.min_amount]
        found: list[Backlog] = []
        for place, one in enumerate(small):
            found += [*large[place * (PARTS_OF_BATCH - 1) :][: PARTS_OF_BATCH - 1], one]
        return found + large[len(small) * (PARTS_OF_BATCH - 1) :]


def _patience(thaw_seconds: int) -> int:
    return min(PATIENCE_SECONDS, thaw_seconds // PARTS_OF_THAW)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`receipts`, `entries`: their numbers. `amount`: micro-units that the operator's stake covers in
    addition to the pot. Session keys that ended before `keys_since` (now less the vault's thaw, unix seconds)
    collect nothing.
    """

    receipts: int
    entries: int
    amount: int
    keys_since: int

    @property
    def is_full(self) -> bool:
        """Whether a further receipt may not fit."""
        return self.receipts <= 0 or self.entries < MAX_RECEIPT_ENTRIES

    def without(self, selected: Sequence[SignedReceipt]) -> BatchLimits:
        """What is left after these receipts."""
        return self._changed(selected, -1)

    def with_again(self, selected: Sequence[SignedReceipt]) -> BatchLimits:
        """What was left before these receipts."""
        return self._changed(selected, 1)

    def share(self) -> BatchLimits:
        """A channel's share of the receipts and entries; at least one receipt."""
        return replace(
            self,
            receipts=max(1, self.receipts // PARTS_OF_BATCH),
            entries=max(MAX_RECEIPT_ENTRIES, self.entries // PARTS_OF_BATCH),
        )

    def within(self, share: BatchLimits) -> BatchLimits:
        """As much of `share` as is left."""
        return replace(
            self, receipts=min(self.receipts, share.receipts), entries=min(self.entries, share.entries)
        )

    def _changed(self, selected: Sequence[SignedReceipt], sign: int) -> BatchLimits:
        return replace(
            self,
            receipts=self.receipts + sign * len(selected),
            entries=self.entries + sign * sum(most_entries(signed.slices) for signed in selected),
            amount=self.amount + sign * sum(signed.receipt.charge for signed in selected),
        )


def amount_covered(chain: Chain, operator: Account, cover_ppm: int) -> int:
    """Micro-units that a batch may collect now, by the check of `Settlement.commit`."""
    cover, _ = chain.call("OperatorRegistry", "coverOf", operator)
    pot = chain.call("PaymentVault", "potOf", chain.address("Settlement"), operator)
    return max(0, most_covered(cover, cover_ppm) - int(pot))
