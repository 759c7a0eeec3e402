"""Channels' lines within one transaction: read together, changed in memory, written together.

Whoever writes holds the locks of all the channels. A key pays through its account's channel alone, so that
the channel's lock is the key's lock too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from backend.domain.auth import KeyUse
from backend.domain.errors import PaymentRequired, Unauthenticated, Unavailable
from backend.services.channels.balance import check_fresh, kept, standings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime
    from typing import Self

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.auth import ApiKey
    from backend.domain.chain import BlockRef
    from backend.domain.ids import ChannelId
    from backend.domain.serving import NewReceipt, Reservation
    from backend.services.channels.balance import Standing


class InsufficientBalance(PaymentRequired):
    """The channel's balance, thawing money aside, does not cover the most this request can cost."""


class InsufficientAuthorisation(PaymentRequired):
    """No voucher and no usable session key reaches far enough."""


class SpendCapReached(PaymentRequired):
    """The API key's own cap does not cover the most this request can cost."""


class ReservationLost(Unavailable):
    """The reservation does not cover the answer any more; nothing was charged."""


class ChannelLedger:
    """What an instant's reservations and receipts are judged by. Every method may be the last before `write`.

    A method that raises has changed nothing.
    """

    def __init__(
        self,
        now: datetime,
        cursor: BlockRef | None,
        lines: dict[ChannelId, Standing],
        reservations: Iterable[Reservation],
        keys: dict[str, ApiKey],
    ) -> None:
        self.now = now
        self._cursor = cursor
        self._lines, self._keys = lines, keys
        self._charged = {channel: line.charged for channel, line in lines.items()}
        self._reserved = {channel: line.reserved for channel, line in lines.items()}
        self._spent = {key.id: key.spent for key in keys.values()}
        self._used_at = {key.id: key.last_used_at for key in keys.values()}
        self._kept = {found.id: found for found in reservations}
        self._dropped = [found.id for found in self._kept.values() if found.is_over(now)]
        for expired in self._dropped:
            del self._kept[expired]
        self._kept_by_key: Counter[str] = Counter()
        for found in self._kept.values():
            self._kept_by_key[found.key_id or ""] += found.amount
        self._new: list[Reservation] = []
        self._receipts: list[NewReceipt] = []
        self._advanced: set[ChannelId] = set()
        self._used: set[str] = set()

    @classmethod
    def opened(
        cls, tx: UnitOfWork, channels: Collection[ChannelId], keys: Collection[str], now: datetime
    ) -> Self:
        """Exact for a caller that holds the channels' locks; a glance otherwise."""
        reservations = tx.channels.reservations(channels)
        lines = standings(tx, channels, kept(reservations, now), now)
        return cls(now, tx.chain.cursor(), lines, reservations, tx.auth.keys_by_id(keys))

    def check(self, channel: ChannelId, key_id: str | None, amount: int, max_lag_seconds: int) -> None:
        """Whether `amount` may be kept now. Raises PaymentRequired, Unauthenticated and ViewStale."""
        check_fresh(self._cursor, self.now, max_lag_seconds)
        if key_id is not None:
            self._check_key(key_id, amount)
        if amount:
            self._check_line(channel, amount)

    def keep(self, reservation: Reservation) -> None:
        """What was checked before."""
        self._kept[reservation.id] = reservation
        self._new.append(reservation)
        self._reserve(reservation, reservation.amount)
        if reservation.key_id is not None:
            self._used_at[reservation.key_id] = self.now
            self._used.add(reservation.key_id)

    def release(self, reservation_id: str) -> Reservation | None:
        """None if it has expired or was released before."""
        found = self._kept.pop(reservation_id, None)
        if found is not None:
            self._dropped.append(found.id)
            self._reserve(found, -found.amount)
        return found

    def line_end(self, reservation: Reservation) -> int:
        """Where the receipt of this reservation begins. Raises ReservationLost."""
        if reservation.id not in self._kept:
            raise ReservationLost("The answer took too long and was not charged; try again.")
        return self._charged[reservation.channel_id]

    def charge(self, reservation: Reservation, receipt: NewReceipt) -> None:
        """Exchange a reservation that is kept for the receipt that begins at the line's end."""
        signed, channel = receipt.signed.receipt, reservation.channel_id
        if receipt.key_id is not None:
            self._spent[receipt.key_id] += signed.charge
            self._used.add(receipt.key_id)
        self.release(reservation.id)
        self._charged[channel] = signed.cumulative
        self._advanced.add(channel)
        self._receipts.append(receipt)

    def write(self, tx: UnitOfWork) -> None:
        tx.channels.drop_reservations(self._dropped)
        tx.channels.add_reservations([new for new in self._new if new.id in self._kept])
        tx.receipts.add(*self._receipts)
        tx.channels.advance({channel: self._charged[channel] for channel in self._advanced})
        tx.auth.note_use([KeyUse(key, self._spent[key], self._used_at[key]) for key in sorted(self._used)])

    def _reserve(self, reservation: Reservation, amount: int) -> None:
        self._reserved[reservation.channel_id] += amount
        self._kept_by_key[reservation.key_id or ""] += amount

    def _check_key(self, key_id: str, amount: int) -> None:
        key = self._keys.get(key_id)
        if key is None or key.revoked_at is not None:
            raise Unauthenticated("The API key was revoked.")
        if key.spend_cap is None:
            return
        committed = self._spent[key_id] + self._kept_by_key[key_id]
        if committed + amount > key.spend_cap:
            raise SpendCapReached(
                f"This request needs at least {amount} micro-units; "
                f"the key's spend cap leaves {max(key.spend_cap - committed, 0)}.",
                details=_amounts(required=amount, spend_cap=key.spend_cap, spent=self._spent[key_id]),
            )

    def _check_line(self, channel: ChannelId, amount: int) -> None:
        charged, reserved = self._charged[channel], self._reserved[channel]
        line = replace(self._lines[channel], charged=charged, reserved=reserved)
        missing = line.missing(amount)
        if not missing:
            return
        error = InsufficientBalance if "balance" in missing else InsufficientAuthorisation
        cure = "deposit more" if "balance" in missing else "grant a session key or send a voucher"
        lacks = " and ".join(f"{lack} of {name}" for name, lack in missing.items())
        raise error(
            f"This request needs at least {amount} micro-units; the channel lacks {lacks}: {cure}.",
            details={
                "channel_id": channel,
                "missing": _amounts(**missing),
                **_amounts(required=amount, available=line.available, thawing=line.thawing),
            },
        )


def _amounts(**amounts: int) -> dict[str, str]:
    """Decimal strings: uint128 does not survive JavaScript's numbers."""
    return {name: str(amount) for name, amount in amounts.items()}
