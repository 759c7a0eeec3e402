"""What the chain costs beside what answers bring in, from measured gas and stated prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WEI_PER_ETHER, WEI_PER_GWEI = 10**18, 10**9
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Market:
    """What is assumed. Prices in dollars, of tokens for a million."""

    prompt_tokens: int = 1_000
    completion_tokens: int = 500
    prompt_price: float = 0.20
    completion_price: float = 0.40
    answers_per_payer: int = 100
    """In a batch: each payer's channel is collected by one voucher."""
    dollars_per_ether: float = 3_000.0

    @property
    def revenue(self) -> float:
        """Dollars of 1,000 answers."""
        prompt = self.prompt_tokens * self.prompt_price
        return 1_000 * (prompt + self.completion_tokens * self.completion_price) / PPM


def gas_per_thousand(gas: Mapping[str, int], answers_per_batch: int, market: Market) -> float:
    """Of 1,000 answers: a batch's commit and finality, and the vouchers of its payers, by session keys."""
    vouchers = -(-answers_per_batch // market.answers_per_payer)
    batch = gas["commit_batch"] + gas["finalise"] + vouchers * gas["voucher_session_key_in_batch_50"]
    return batch * 1_000 / answers_per_batch


def share_of_revenue(gas_used: float, gwei: float, market: Market) -> float:
    """1.0 is all of it."""
    return gas_used * gwei * WEI_PER_GWEI / WEI_PER_ETHER * market.dollars_per_ether / market.revenue


def claim_dollars(gas: Mapping[str, int], gwei: float, market: Market) -> float:
    """One claim of what an account has earned, by whoever sends it."""
    used = gas["claim_repeat_depth_20"]
    return used * gwei * WEI_PER_GWEI / WEI_PER_ETHER * market.dollars_per_ether
