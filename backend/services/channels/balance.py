"""How much a payer may still spend through a channel. All amounts in micro-units along the channel's line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.chain import BlockRef
    from backend.domain.channels import Channel, Grant
    from backend.domain.ids import Account, ChannelId
    from backend.domain.serving import Reservation
    from backend.ports.chain import ChainView


class ViewStale(Unavailable):
    """What is known of the chain is too old to lend on: balances may have left since."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A channel's line: what is paid for, allowed, charged and kept for running answers."""

    balance: int
    """In the vault, N blocks deep, thawing money included."""
    thawing: int
    collected: int
    """Where the collected part of the line ends."""
    authorised: int
    """Where the best voucher or usable session key lets collection end."""
    charged: int
    """Where the last receipt ends."""
    reserved: int

    @property
    def funded(self) -> int:
        """Where the money that stays ends; what thaws can leave before it is collected."""
        return self.collected + max(self.balance - self.thawing, 0)

    @property
    def available(self) -> int:
        return max(min(self.funded, self.authorised) - self.charged - self.reserved, 0)

    def missing(self, amount: int) -> dict[str, int]:
        """What keeps `amount` from being spent: how much more balance, how much more authorisation."""
        end = self.charged + self.reserved + amount
        lacks = {"balance": end - self.funded, "authorisation": end - self.authorised}
        return {name: lack for name, lack in lacks.items() if lack > 0}


def standing(tx: UnitOfWork, channel: ChannelId, now: datetime) -> Standing:
    """Exact for a caller that holds the channel's lock; a glance otherwise."""
    return standings(tx, [channel], kept(tx.channels.reservations([channel]), now), now)[channel]


def standings(
    tx: UnitOfWork, channels: Collection[ChannelId], reserved: Mapping[ChannelId, int], now: datetime
) -> dict[ChannelId, Standing]:
    """Of many channels at once. `reserved` as `kept` gives it."""
    on_chain, charged = tx.chain.known_channels(channels), tx.channels.charged(channels)
    authorised = _authorised(tx, on_chain, later_now(tx.chain, now))
    return {
        channel: Standing(
            balance=found.balance if found else 0,
            thawing=found.thawing if found else 0,
            collected=found.collected if found else 0,
            authorised=authorised.get(channel, 0),
            charged=line_end(found, charged.get(channel, 0)),
            reserved=reserved.get(channel, 0),
        )
        for channel in channels
        for found in [on_chain.get(channel)]
    }


def kept(reservations: Iterable[Reservation], now: datetime) -> dict[ChannelId, int]:
    """Sums by channel, without what has expired."""
    sums: dict[ChannelId, int] = {}
    for found in reservations:
        if not found.is_over(now):
            sums[found.channel_id] = sums.get(found.channel_id, 0) + found.amount
    return sums


def check_fresh(cursor: BlockRef | None, now: datetime, max_lag_seconds: int) -> None:
    """Raises ViewStale if the last indexed block is older than that, or none is indexed."""
    if cursor is None:
        raise ViewStale("No block of the chain is indexed yet; nothing was charged, try again.")
    lag = int(now.timestamp()) - cursor.timestamp
    if lag > max_lag_seconds:
        raise ViewStale(
            f"What is known of the chain is {lag} seconds old, more than {max_lag_seconds}; "
            "nothing was charged, try again.",
            details={"lag_seconds": lag, "block_number": cursor.number},
        )


def later_now(chain: ChainView, now: datetime) -> datetime:
    """Ours or the indexed chain's, whichever is ahead: what has expired by either is not relied on."""
    cursor = chain.cursor()
    return max(now, datetime.fromtimestamp(cursor.timestamp, UTC)) if cursor else now


def line_end(channel: Channel | None, charged: int) -> int:
    """Where the next receipt begins. A database from an old backup knows less than the chain collected.

    A refund does not move it back: a second receipt over the same money would convict its batch.
    """
    return max(charged, channel.collected, channel.max_collected) if channel else charged


def usable_grants(grants: Iterable[Grant], now: datetime) -> dict[Account, int]:
    """Cap by key. Use ends at once on revocation and expiry, though collection goes on until the thaw."""
    return {g.key: g.cap for g in grants if g.revoked_at is None and g.expiry > now.timestamp()}


def _authorised(tx: UnitOfWork, channels: Mapping[ChannelId, Channel], now: datetime) -> dict[ChannelId, int]:
    """Where the best voucher or usable session key of each channel lets collection end."""
    grants = tx.chain.known_grants(channels)
    caps = {channel: usable_grants(grants.get(channel, ()), now) for channel in channels}
    best = dict.fromkeys(channels, 0)
    for channel, key in tx.channels.keys_held(channels):
        best[channel] = max(best[channel], caps[channel].get(key, 0))
    for voucher in tx.channels.vouchers(*channels):
        channel, reach = voucher.signed.voucher.channel_id, voucher.signed.voucher.max_cumulative
        if voucher.signer != channels[channel].payer:
            reach = min(reach, caps[channel].get(voucher.signer, 0))
        best[channel] = max(best[channel], reach)
    return best
