"""Computes gas as a share of revenue from measured gas and assumed prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WEI_PER_ETHER, WEI_PER_GWEI = 10**18, 10**9
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Market:
    """Assumptions. Prices are in dollars, of tokens per million."""

    prompt_tokens: int = 1_000
    completion_tokens: int = 500
    prompt_price: float = 0.20
    completion_price: float = 0.40
    answers_per_payer: int = 100
    """Answers per payer in a batch; one voucher collects each payer's channel."""
    dollars_per_ether: float = 3_000.0

    @property
    def revenue(self) -> float:
        """Revenue of 1,000 answers in dollars."""
        prompt = self.prompt_tokens * self.prompt_price
        return 1_000 * (prompt + self.completion_tokens * self.completion_price) / PPM


def gas_per_thousand(gas: Mapping[str, int], answers_per_batch: int, market: Market) -> float:
    """Gas per 1,000 answers: commit and finalisation of a batch, and its payers' vouchers by session keys."""
    vouchers = -(-answers_per_batch // market.answers_per_payer)
    batch = gas["commit_batch"] + gas["finalise"] + vouchers * gas["voucher_session_key_in_batch_50"]
    return batch * 1_000 / answers_per_batch


def share_of_revenue(gas_used: float, gwei: float, market: Market) -> float:
    """Cost of `gas_used` per 1,000 answers as a share of their revenue; 1.0 is all of it."""
    return gas_used * gwei * WEI_PER_GWEI / WEI_PER_ETHER * market.dollars_per_ether / market.revenue


def claim_dollars(gas: Mapping[str, int], gwei: float, market: Market) -> float:
    """Cost of one claim in dollars, paid by its sender."""
    used = gas["claim_repeat_depth_20"]
    return used * gwei * WEI_PER_GWEI / WEI_PER_ETHER * market.dollars_per_ether
