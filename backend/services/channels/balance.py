"""How much a payer may still spend through a channel.

Amounts are in micro-units. A *cumulative* counts all that a channel was ever charged; vouchers, collections
and receipts name cumulatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.domain.errors import Unavailable
from backend.domain.serving import NO_WAIVER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.chain import BlockRef
    from backend.domain.channels import Channel, Grant, Move
    from backend.domain.ids import Account, ChannelId
    from backend.domain.serving import Reservation, Waiver


class ViewStale(Unavailable):
    """The indexed chain is too old to rely on its balances: they may have been withdrawn since."""


@dataclass(frozen=True, slots=True)
class ChannelBalance:
    """What a channel holds, may be charged, was charged, and has reserved for running answers."""

    balance: int
    """Balance in the vault at N confirmations, thawing amount included."""
    thawing: int
    collected: int
    """Cumulative up to which batches have collected."""
    authorised: int
    """Highest cumulative that a voucher or a usable session key lets us collect."""
    charged: int
    """Cumulative of the last receipt."""
    reserved: int
    moving: int = 0
    """Part of the balance that pending moves take to another collector's channel."""
    waive_until: int = 0
    """End of answers that were convicted and are never collected; zero if there are none. Until they are
    waived nothing behind them can be collected, so that vouchers authorise nothing that do not waive them. A
    session key that the gateway holds waives them.
    """
    convicted: int = 0
    """Sum of these answers' charges."""

    @property
    def funded(self) -> int:
        """Cumulative that the balance covers; convicted answers take nothing of it. What thaws or moves may
        be gone before it is collected.
        """
        return self.collected + self.convicted + max(self.balance - self.thawing - self.moving, 0)

    @property
    def unspent(self) -> int:
        """What is funded and neither charged nor reserved, authorised or not."""
        return max(self.funded - self.charged - self.reserved, 0)

    @property
    def available(self) -> int:
        return max(min(self.funded, self.authorised) - self.charged - self.reserved, 0)

    def missing(self, amount: int) -> dict[str, int]:
        """Shortfalls of balance and authorisation for spending `amount`; those that suffice are left out."""
        end = self.charged + self.reserved + amount
        shortfalls = {"balance": end - self.funded, "authorisation": end - self.authorised}
        return {name: shortfall for name, shortfall in shortfalls.items() if shortfall > 0}


def channel_balance(tx: UnitOfWork, channel: ChannelId, now: datetime) -> ChannelBalance:
    """Exact for a caller that holds the channel's lock; otherwise it may be outdated at once."""
    reserved = reserved_by_channel(tx.channels.reservations([channel]), now)
    return channel_balances(tx, [channel], reserved, tx.chain.cursor(), now)[channel]


def channel_balances(
    tx: UnitOfWork,
    channels: Collection[ChannelId],
    reserved: Mapping[ChannelId, int],
    cursor: BlockRef | None,
    now: datetime,
) -> dict[ChannelId, ChannelBalance]:
    """Balances of many channels. `reserved`: from `reserved_by_channel`. `cursor`: of the indexed chain, read
    before; see `pending_moves`.
    """
    on_chain, lines = tx.chain.known_channels(channels), tx.channels.lines(channels)
    waivers = {channel: line.waiver for channel, line in lines.items() if channel in on_chain}
    authorised = _authorised(tx, on_chain, waivers, latest_time(cursor, now))
    moves = pending_moves(tx, on_chain, cursor)
    return {
        channel: ChannelBalance(
            balance=found.balance if found else 0,
            thawing=found.thawing if found else 0,
            collected=found.collected if found else 0,
            authorised=authorised.get(channel, 0),
            charged=current_cumulative(found, lines[channel].charged if channel in lines else 0),
            reserved=reserved.get(channel, 0),
            moving=sum(move.amount for move in moves if move.channel_id == channel),
            waive_until=waiver.until,
            convicted=max(waiver.until - max(waiver.start, found.collected if found else 0), 0),
        )
        for channel in channels
        for found, waiver in [(on_chain.get(channel), waivers.get(channel, NO_WAIVER))]
    }


def pending_moves(
    tx: UnitOfWork, channels: Mapping[ChannelId, Channel], cursor: BlockRef | None
) -> list[Move]:
    """Moves out of these channels that the indexed chain does not show and that may still take place.

    Their transactions have not failed, and the indexed chain has not passed their deadlines: a move before
    its deadline would be in a block that is indexed. So neither a crash nor a reorganisation lets a moving
    amount be spent, and none holds it for ever. `cursor` must be read before `channels`, so that they show
    all that happened up to it.
    """
    moves = tx.channels.moves(channels)
    chain_time = cursor.timestamp if cursor else 0
    return [move for move in moves if not move.is_over(channels[move.channel_id], chain_time)]


def reserved_by_channel(reservations: Iterable[Reservation], now: datetime) -> dict[ChannelId, int]:
    """Sums of the reservations that have not expired."""
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
            f"The last indexed block is {lag} seconds old, more than {max_lag_seconds}; "
            "nothing was charged, try again.",
            details={"lag_seconds": lag, "block_number": cursor.number},
        )


def latest_time(cursor: BlockRef | None, now: datetime) -> datetime:
    """The later of our clock and the indexed chain's: a grant that has expired by either is not usable."""
    return max(now, datetime.fromtimestamp(cursor.timestamp, UTC)) if cursor else now


def current_cumulative(channel: Channel | None, charged: int) -> int:
    """The cumulative on which the next receipt builds.

    It is never below what the chain collected, which a database restored from an old backup may not know. A
    refund does not lower it: a second receipt for the same cumulative would convict its batch.
    """
    return max(charged, channel.collected, channel.max_collected) if channel else charged


def usable_grants(grants: Iterable[Grant], now: datetime) -> dict[Account, int]:
    """Caps of the keys that may be used. Revocation and expiry end use at once; what was charged before can
    be collected until the thaw ends.
    """
    return {g.key: g.cap for g in grants if g.revoked_at is None and g.expiry > now.timestamp()}


def _authorised(
    tx: UnitOfWork, channels: Mapping[ChannelId, Channel], waivers: Mapping[ChannelId, Waiver], now: datetime
) -> dict[ChannelId, int]:
    """For each channel, the highest cumulative that a voucher or a usable session key lets us collect.
    `waivers`: what vouchers have to waive.
    """
    grants = tx.chain.known_grants(channels)
    caps = {channel: usable_grants(grants.get(channel, ()), now) for channel in channels}
    best = dict.fromkeys(channels, 0)
    for channel, key in tx.channels.keys_held(channels):
        best[channel] = max(best[channel], caps[channel].get(key, 0))
    for voucher in tx.channels.vouchers(*channels):
        channel, limit = voucher.signed.voucher.channel_id, voucher.signed.voucher.max_cumulative
        if voucher.signed.voucher.waived_until < waivers.get(channel, NO_WAIVER).until:
            continue
        if voucher.signer != channels[channel].payer:
            limit = min(limit, caps[channel].get(voucher.signer, 0))
        best[channel] = max(best[channel], limit)
    return best
