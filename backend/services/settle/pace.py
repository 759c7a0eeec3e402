"""When receipts are settled, and how much of them one batch may hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.domain.batch import MAX_RECEIPT_ENTRIES, most_entries
from backend.domain.money import most_covered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import Backlog
    from backend.ports.chain import Chain

PATIENCE_SECONDS = 86_400
"""Age of the oldest receipt at which a batch collects from a channel that owes less than the least amount;
less if `1 / PARTS_OF_THAW` of the vault's thaw is shorter.
"""
PARTS_OF_THAW = 8
BATCH_ENTRIES = 500_000
"""Most entries of a batch, by `most_entries`: what limits the memory of all who build it. With 482 receipts
that have the longest lists the receipts take 55 MiB and `build` 150 MiB more. `watch`, which holds
`CACHED_BATCHES` while it builds a third, reached 570 MiB, of the chart's limit of 1 GiB.
"""


@dataclass(frozen=True, slots=True)
class Pace:
    """A batch is due once a receipt is `seconds` old or `receipts` are unsettled, which is also its limit.
    Further ones, and those with more than `entries`, come with the next batches.

    It leaves out channels that owe less than `min_amount` micro-units, until their oldest receipt is a day
    old: the gas of a collection does not depend on its amount, and anyone can pay for tiny answers.
    """

    seconds: float
    receipts: int
    min_amount: int = 0
    entries: int = BATCH_ENTRIES

    def due(self, backlogs: Sequence[Backlog], now: int, thaw_seconds: int) -> list[Backlog]:
        """The channels to collect from; none while no batch is due."""
        patience = min(PATIENCE_SECONDS, thaw_seconds // PARTS_OF_THAW)
        worth = [b for b in backlogs if b.amount >= self.min_amount or now - b.oldest_served_at >= patience]
        is_full = sum(backlog.num_receipts for backlog in worth) >= self.receipts
        is_due = is_full or any(now - backlog.oldest_served_at >= self.seconds for backlog in worth)
        return worth if is_due else []


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
        return replace(
            self,
            receipts=self.receipts - len(selected),
            entries=self.entries - sum(most_entries(signed.slices) for signed in selected),
            amount=self.amount - sum(signed.receipt.charge for signed in selected),
        )


def amount_covered(chain: Chain, operator: Account, cover_ppm: int) -> int:
    """Micro-units that a batch may collect now, by the check of `Settlement.commit`."""
    cover, _ = chain.call("OperatorRegistry", "coverOf", operator)
    pot = chain.call("PaymentVault", "potOf", chain.address("Settlement"), operator)
    return max(0, most_covered(cover, cover_ppm) - int(pot))
