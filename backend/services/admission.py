"""Money is kept before an answer runs, and becomes a receipt on the channel's line when it has ended."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from backend.domain.errors import PaymentRequired, Unauthenticated, Unavailable
from backend.domain.hashing import channel_id, receipt_id
from backend.domain.receipt import Receipt, SignedReceipt
from backend.ports.serving import NewReceipt, Reservation
from backend.services.standing import check_fresh, line_end, standing

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId, Hash32
    from backend.domain.receipt import Slice
    from backend.ports.chain import Signer
    from backend.ports.serving import ServingTx


class InsufficientBalance(PaymentRequired):
    """The channel's balance, thawing money aside, does not cover the most this request can cost."""


class InsufficientAuthorisation(PaymentRequired):
    """No voucher and no usable session key reaches far enough."""


class SpendCapReached(PaymentRequired):
    """The API key's own cap does not cover the most this request can cost."""


class ReservationLost(Unavailable):
    """The reservation does not cover the answer any more; nothing was charged."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays for an answer, and with which API key if it came with one."""

    account: Account
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Market:
    """Where this installation's receipts are good: operator, collector (`Settlement`) and its domain."""

    operator: Account
    collector: Account
    receipts: TypedDomain

    def channel(self, payer: Account) -> ChannelId:
        return channel_id(payer, self.operator, self.collector)


@dataclass(frozen=True, slots=True)
class Bill:
    """All of a receipt but its place on the line and its instant."""

    charge: int
    request_hash: Hash32
    response_hash: Hash32
    slices: tuple[Slice, ...]
    slices_hash: Hash32
    method: str
    attribution_hash: Hash32
    prompt_tokens: int
    completion_tokens: int
    salt: Hash32


class Admission:
    """Reservations and receipts of all channels of one operator. Safe from many threads and processes."""

    def __init__(
        self,
        begin: Callable[[], AbstractContextManager[ServingTx]],
        read: Callable[[], AbstractContextManager[ServingTx]],
        market: Market,
        receipt_key: Signer,
        clock: Callable[[], datetime],
        reservation_seconds: int,
        max_lag_seconds: int,
    ) -> None:
        """`max_lag_seconds`: how old the last indexed block may be where money is kept."""
        self._begin, self._read = begin, read
        self._market = market
        self._receipt_key = receipt_key
        self._clock = clock
        self._reservation_seconds = reservation_seconds
        self._max_lag_seconds = max_lag_seconds

    def check(self, payer: Payer, amount: int) -> None:
        """A glance that keeps nothing: whether `reserve` would refuse now. Raises as `reserve`."""
        now = self._clock()
        with self._read() as tx:
            self._check(tx, payer, amount, now)

    def reserve(self, payer: Payer, amount: int) -> Reservation:
        """Keep `amount` micro-units for one answer. Raises PaymentRequired, saying what is missing, and
        ViewStale.
        """
        now = self._clock()
        channel = self._market.channel(payer.account)
        expires_at = now + timedelta(seconds=self._reservation_seconds)
        reservation = Reservation(secrets.token_hex(16), channel, payer.key_id, amount, expires_at)
        with self._begin() as tx:
            tx.channels.lock(channel)
            self._check(tx, payer, amount, now)
            if payer.key_id is not None:
                tx.auth.touch_key(payer.key_id, now)
            tx.channels.add_reservation(reservation)
        return reservation

    def release(self, reservation: Reservation) -> None:
        with self._begin() as tx:
            tx.channels.lock(reservation.channel_id)
            tx.channels.take_reservation(reservation.id, self._clock())

    def settle(self, payer: Payer, reservation: Reservation, bill: Bill) -> NewReceipt:
        """Exchange the reservation for a signed receipt at the end of the line; durable when this returns.

        Raises ReservationLost, and charges nothing, if the reservation has expired or is too small.
        """
        now = self._clock()
        channel = reservation.channel_id
        if bill.charge > reservation.amount:
            raise ReservationLost(f"The answer cost {bill.charge}, above its bound of {reservation.amount}.")
        with self._begin() as tx:
            charged = tx.channels.lock(channel)
            if tx.channels.take_reservation(reservation.id, now) is None:
                raise ReservationLost("The answer took too long and was not charged; try again.")
            cumulative = line_end(tx.chain.channel(channel), charged) + bill.charge
            receipt = self._signed(channel, cumulative, bill, int(now.timestamp()))
            stored = NewReceipt(
                id=receipt_id(receipt.receipt),
                operator=self._market.operator,
                payer=payer.account,
                signed=receipt,
                salt=bill.salt,
                key_id=payer.key_id,
            )
            tx.receipts.add(stored)
            tx.channels.advance(channel, cumulative)
            if payer.key_id is not None:
                tx.auth.spend(payer.key_id, bill.charge)
        return stored

    def _signed(self, channel: ChannelId, cumulative: int, bill: Bill, served_at: int) -> SignedReceipt:
        receipt = Receipt(
            channel_id=channel,
            cumulative=cumulative,
            charge=bill.charge,
            request_hash=bill.request_hash,
            response_hash=bill.response_hash,
            slices_hash=bill.slices_hash,
            prompt_tokens=bill.prompt_tokens,
            completion_tokens=bill.completion_tokens,
            attribution_hash=bill.attribution_hash,
            served_at=served_at,
        )
        signature = self._receipt_key.sign(self._market.receipts.receipt_digest(receipt))
        return SignedReceipt(receipt, bill.method, bill.slices, signature)

    def _check(self, tx: ServingTx, payer: Payer, amount: int, now: datetime) -> None:
        check_fresh(tx.chain, now, self._max_lag_seconds)
        if payer.key_id is not None:
            self._check_key(tx, payer.key_id, amount, now)
        if amount:
            self._check_channel(tx, self._market.channel(payer.account), amount, now)

    def _check_key(self, tx: ServingTx, key_id: str, amount: int, now: datetime) -> None:
        key = tx.auth.key(key_id)
        if key is None or key.revoked_at is not None:
            raise Unauthenticated("The API key was revoked.")
        if key.spend_cap is None:
            return
        committed = key.spent + tx.channels.reserved_by_key(key_id, now)
        if committed + amount > key.spend_cap:
            raise SpendCapReached(
                f"This request needs at least {amount} micro-units; "
                f"the key's spend cap leaves {max(key.spend_cap - committed, 0)}.",
                details=_amounts(required=amount, spend_cap=key.spend_cap, spent=key.spent),
            )

    def _check_channel(self, tx: ServingTx, channel: ChannelId, amount: int, now: datetime) -> None:
        line = standing(tx, channel, now)
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
