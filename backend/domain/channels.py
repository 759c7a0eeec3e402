"""Payment channels and session keys of `PaymentVault`. Amounts are in micro-units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.ids import Account, ChannelId

MAX_THAW_SECONDS = 28 * 86_400
"""Longest thaw that `PaymentVault` can be deployed with."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A payer's isolated balance towards one operator."""

    id: ChannelId
    payer: Account
    operator: Account
    collector: Account
    balance: int
    """Deposited and neither withdrawn nor collected; includes `thawing`."""
    collected: int
    """The collected cumulative: everything below it is paid or waived."""
    thawing: int
    """Part of the balance that the payer is withdrawing."""
    thawed_at: int
    """Unix seconds from which the thawing part can be withdrawn; zero while nothing thaws."""
    max_collected: int = 0
    """The highest cumulative that was ever collected, refunds included: receipts up to it were signed."""
    next_move_nonce: int = 0
    """The payer's nonce after the last move out of this channel; zero before the first."""

    @property
    def available(self) -> int:
        """The part of the balance that can pay for requests."""
        return max(self.balance - self.thawing, 0)


@dataclass(frozen=True, slots=True)
class Grant:
    """A session key of a channel: signs vouchers up to the cumulative `cap` until `expiry` or revocation."""

    channel_id: ChannelId
    key: Account
    cap: int
    expiry: int  # unix seconds
    revoked_at: int | None  # unix seconds


@dataclass(frozen=True, slots=True)
class Move:
    """Balance that a transaction of ours is to move to the payer's channel under another collector.

    Payers' nonces only rise, so that of its consent identifies the move on the chain.
    """

    channel_id: ChannelId
    nonce: int
    amount: int
    deadline: int
    """Unix seconds after which the vault refuses it."""
    transaction_id: int

    def is_over(self, channel: Channel, chain_time: int) -> bool:
        """Whether the channel, as of a block at `chain_time`, shows the move, or it can never take place."""
        return self.nonce < channel.next_move_nonce or self.deadline < chain_time
