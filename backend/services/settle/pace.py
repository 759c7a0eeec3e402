"""When receipts are settled, and how much of them one batch may hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.domain.money import most_covered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account
    from backend.domain.settlement import Backlog
    from backend.ports.chain import Chain

PATIENCE_SECONDS = 86_400
"""Age of the oldest receipt at which a batch collects from a channel that owes less than the least amount;
less if `1 / PARTS_OF_THAW` of the vault's thaw is shorter.
"""
PARTS_OF_THAW = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """A batch is due once a receipt is `seconds` old or `receipts` are unsettled, which is also its limit.

    It leaves out channels that owe less than `min_amount` micro-units, until their oldest receipt is a day
    old: the gas of a collection does not depend on its amount, and anyone can pay for tiny answers.
    """

    seconds: float
    receipts: int
    min_amount: int = 0

    def due(self, backlogs: Sequence[Backlog], now: int, thaw_seconds: int) -> list[Backlog]:
        """The channels to collect from; none while no batch is due."""
        patience = min(PATIENCE_SECONDS, thaw_seconds // PARTS_OF_THAW)
        worth = [b for b in backlogs if b.amount >= self.min_amount or now - b.oldest_served_at >= patience]
        is_full = sum(backlog.num_receipts for backlog in worth) >= self.receipts
        is_due = is_full or any(now - backlog.oldest_served_at >= self.seconds for backlog in worth)
        return worth if is_due else []


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`receipts`: their number. `amount`: micro-units that the operator's stake covers in addition to the
    pot. Session keys that ended before `keys_since` (now less the vault's thaw, unix seconds) collect
    nothing.
    """

    receipts: int
    amount: int
    keys_since: int

    def without(self, receipts: int, amount: int) -> BatchLimits:
        """What is left after a channel's part."""
        return replace(self, receipts=self.receipts - receipts, amount=self.amount - amount)


def amount_covered(chain: Chain, operator: Account, cover_ppm: int) -> int:
    """Micro-units that a batch may collect now, by the check of `Settlement.commit`."""
    cover, _ = chain.call("OperatorRegistry", "coverOf", operator)
    pot = chain.call("PaymentVault", "potOf", chain.address("Settlement"), operator)
    return max(0, most_covered(cover, cover_ppm) - int(pot))
