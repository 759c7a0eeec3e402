"""Channels' charges and reservations within one transaction: loaded together, changed in memory, written
together.

A writer holds the locks of all its channels. An API key pays through the channel of its account only, so the
channel's lock protects the key's spending too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from backend.domain.auth import KeyUse
from backend.domain.errors import PaymentRequired, Unauthenticated, Unavailable
from backend.domain.money import AMOUNT, in_dollars
from backend.domain.serving import NewCharge
from backend.services.channels.balance import channel_balances, check_fresh, reserved_by_channel

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime
    from typing import Self

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.auth import KeySpending
    from backend.domain.chain import BlockRef
    from backend.domain.ids import ChannelId
    from backend.domain.serving import NewReceipt, Reservation
    from backend.services.channels.balance import ChannelBalance


class InsufficientBalance(PaymentRequired):
    """The channel's balance without its thawing amount does not cover the maximum cost of the request."""


class InsufficientAuthorisation(PaymentRequired):
    """No voucher and no usable session key authorises the maximum cost of the request."""


class WaiverRequired(PaymentRequired):
    """An answer of the channel was convicted and is never paid: until its charge is waived, nothing behind it
    can be collected. `waivable` in `details` is the voucher's `waived_until`.
    """


class SpendCapReached(PaymentRequired):
    """The API key's spend cap does not cover the maximum cost of the request."""


class ReservationLost(Unavailable):
    """The reservation has expired or does not cover the answer; nothing was charged."""


class ChannelLedger:
    """Balances, reservations and keys' spending of some channels at one time, with changes that `write`
    stores.

    A method that raises has changed nothing, so `write` may follow any call.
    """

    def __init__(
        self,
        now: datetime,
        cursor: BlockRef | None,
        balances: dict[ChannelId, ChannelBalance],
        reservations: Iterable[Reservation],
        keys: dict[str, KeySpending],
    ) -> None:
        self.now = now
        self._cursor = cursor
        self._balances, self._keys = balances, keys
        self._charged = {channel: balance.charged for channel, balance in balances.items()}
        self._reserved = {channel: balance.reserved for channel, balance in balances.items()}
        self._spent = {key.id: key.spent for key in keys.values()}
        self._used_at = {key.id: key.last_used_at for key in keys.values()}
        self._reservations = {found.id: found for found in reservations}
        self._dropped = [found.id for found in self._reservations.values() if found.is_over(now)]
        for expired in self._dropped:
            del self._reservations[expired]
        self._reserved_by_key: Counter[str] = Counter()
        for found in self._reservations.values():
            self._reserved_by_key[found.key_id or ""] += found.amount
        self._new: list[Reservation] = []
        self._receipts: list[NewReceipt] = []
        self._charges: list[NewCharge] = []
        self._advanced: set[ChannelId] = set()
        self._used: set[str] = set()

    @classmethod
    def load(
        cls, tx: UnitOfWork, channels: Collection[ChannelId], keys: Collection[str], now: datetime
    ) -> Self:
        """Exact for a caller that holds the channels' locks; otherwise it may be outdated at once."""
        cursor = tx.chain.cursor()
        reservations = tx.channels.reservations(channels)
        balances = channel_balances(tx, channels, reserved_by_channel(reservations, now), cursor, now)
        return cls(now, cursor, balances, reservations, tx.auth.spending(keys))

    def check(self, channel: ChannelId, key_id: str | None, amount: int, max_lag_seconds: int) -> None:
        """Check that `amount` can be reserved now. Raises PaymentRequired, Unauthenticated and ViewStale."""
        check_fresh(self._cursor, self.now, max_lag_seconds)
        if key_id is not None:
            self._check_key(key_id, amount)
        if amount:
            self._check_balance(channel, amount)

    def reserve(self, reservation: Reservation) -> None:
        """Add a reservation. The caller has checked it with `check`."""
        self._reservations[reservation.id] = reservation
        self._new.append(reservation)
        self._add_reserved(reservation, reservation.amount)
        if reservation.key_id is not None:
            self._used_at[reservation.key_id] = self.now
            self._used.add(reservation.key_id)

    def release(self, reservation_id: str) -> Reservation | None:
        """The reservation; None if it has expired or was released before."""
        found = self._reservations.pop(reservation_id, None)
        if found is not None:
            self._dropped.append(found.id)
            self._add_reserved(found, -found.amount)
        return found

    def cumulative(self, reservation: Reservation) -> int:
        """The channel's cumulative before the receipt of this reservation. Raises ReservationLost."""
        if reservation.id not in self._reservations:
            raise ReservationLost("The answer took too long and was not charged; try again.")
        return self._charged[reservation.channel_id]

    def charge(self, reservation: Reservation, charged: NewReceipt | NewCharge) -> None:
        """Replace a reservation by its receipt or charge, which builds on `cumulative`."""
        interval, channel = charged.interval, reservation.channel_id
        if charged.key_id is not None:
            self._spent[charged.key_id] += interval.charge
            self._used.add(charged.key_id)
        self.release(reservation.id)
        self._charged[channel] = interval.cumulative
        self._advanced.add(channel)
        if isinstance(charged, NewCharge):
            self._charges.append(charged)
        else:
            self._receipts.append(charged)

    def write(self, tx: UnitOfWork) -> None:
        tx.channels.drop_reservations(self._dropped)
        tx.channels.add_reservations([new for new in self._new if new.id in self._reservations])
        tx.receipts.add(*self._receipts)
        tx.charges.add(*self._charges)
        tx.channels.advance({channel: self._charged[channel] for channel in self._advanced})
        tx.auth.record_use([KeyUse(key, self._spent[key], self._used_at[key]) for key in sorted(self._used)])

    def _add_reserved(self, reservation: Reservation, amount: int) -> None:
        self._reserved[reservation.channel_id] += amount
        self._reserved_by_key[reservation.key_id or ""] += amount

    def _check_key(self, key_id: str, amount: int) -> None:
        key = self._keys.get(key_id)
        if key is None or key.revoked_at is not None:
            raise Unauthenticated("The API key was revoked.")
        if key.spend_cap is None:
            return
        committed = self._spent[key_id] + self._reserved_by_key[key_id]
        if committed + amount > key.spend_cap:
            raise SpendCapReached(
                f"This request needs at least {in_dollars(amount)}; "
                f"the key's spend cap leaves {in_dollars(max(key.spend_cap - committed, 0))}.",
                details=_amounts(required=amount, spend_cap=key.spend_cap, spent=self._spent[key_id]),
            )

    def _check_balance(self, channel: ChannelId, amount: int) -> None:
        charged, reserved = self._charged[channel], self._reserved[channel]
        balance = replace(self._balances[channel], charged=charged, reserved=reserved)
        missing = balance.missing(amount)
        if not missing:
            return
        details = {
            "channel_id": channel,
            "missing": _amounts(**missing),
            **_amounts(required=amount, available=balance.available),
            **_amounts(thawing=balance.thawing, moving=balance.moving),
        }
        lack = f"This request needs at least {in_dollars(amount)}; the channel lacks {lacks(missing)}"
        if "balance" in missing:
            raise InsufficientBalance(f"{lack}: deposit more.", details=details)
        if balance.waive_until:
            raise WaiverRequired(
                f"{lack}, because answers up to {in_dollars(balance.waive_until)} were convicted and are "
                "never collected: once those before them are final, send a voucher that waives them "
                "(`waived_until`), or grant this gateway a session key.",
                details=details | _amounts(waivable=balance.waive_until),
            )
        raise InsufficientAuthorisation(f"{lack}: grant a session key or send a voucher.", details=details)


def lacks(missing: Mapping[str, int]) -> str:
    """The shortfalls of a `ChannelBalance` in words."""
    return " and ".join(f"{in_dollars(lack)} of {name}" for name, lack in missing.items())


def _amounts(**amounts: int) -> dict[str, dict[str, str]]:
    return {name: AMOUNT.render(amount) for name, amount in amounts.items()}
