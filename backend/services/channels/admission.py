"""Money is kept before an answer runs, and becomes a receipt on the channel's line when it has ended."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backend.domain.hashing import channel_id, receipt_id, to_bytes
from backend.domain.receipt import Receipt, SignedReceipt
from backend.domain.serving import NewReceipt, Reservation
from backend.services.channels.group_commit import GroupCommit
from backend.services.channels.ledger import ChannelLedger, ReservationLost
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId, Hash32
    from backend.domain.receipt import Slice
    from backend.ports.chain import Signer


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

    def charged(
        self,
        books: ChannelLedger,
        payer: Payer,
        reservation: Reservation,
        bill: Bill,
        receipt_key: Signer,
        trace: str | None,
    ) -> NewReceipt:
        """The receipt, at the end of the line, for which the reservation is exchanged in the books.

        Raises ReservationLost, and charges nothing, if the reservation is gone or too small.
        """
        if bill.charge > reservation.amount:
            raise ReservationLost(f"It cost {bill.charge}, above its bound of {reservation.amount}.")
        cumulative = books.line_end(reservation) + bill.charge
        receipt = receipt_of(reservation.channel_id, cumulative, bill, int(books.now.timestamp()))
        number = receipt_id(receipt)
        signature = receipt_key.sign(self.receipts.digest(to_bytes(number)))
        signed = SignedReceipt(receipt, bill.method, bill.slices, signature)
        stored = NewReceipt(number, self.operator, payer.account, signed, bill.salt, payer.key_id, trace)
        books.charge(reservation, stored)
        return stored


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


@dataclass(frozen=True, slots=True)
class _Entry:
    """One thing to do in the books of a channel, and of the key that is used."""

    channel: ChannelId
    key_id: str | None
    act: Callable[[ChannelLedger], Any]


class Admission:
    """Reservations and receipts of all channels of one operator. Any number of processes may share a
    database.

    What is asked for at a time is done in one transaction, in the order of asking, and each answer is given
    once that transaction is durable: whoever dies before it has promised nothing.
    """

    def __init__(
        self,
        db: Database,
        market: Market,
        receipt_key: Signer,
        clock: Callable[[], datetime],
        reservation_seconds: int,
        max_lag_seconds: int,
    ) -> None:
        """`max_lag_seconds`: how old the last indexed block may be where money is kept."""
        self._db = db
        self._market = market
        self._receipt_key = receipt_key
        self._clock = clock
        self._reservation_seconds = reservation_seconds
        self._max_lag_seconds = max_lag_seconds
        self._glances: GroupCommit[_Entry, Any] = GroupCommit(self._look, "admission-glance")
        self._commits: GroupCommit[_Entry, Any] = GroupCommit(self._commit, "admission-commit")

    async def check(self, payer: Payer, amount: int) -> None:
        """A glance that keeps nothing: whether `reserve` would refuse now. Raises as `reserve`."""
        channel = self._market.channel(payer.account)

        def act(books: ChannelLedger) -> None:
            books.check(channel, payer.key_id, amount, self._max_lag_seconds)

        await self._glances.ask(_Entry(channel, payer.key_id, act))

    async def reserve(self, payer: Payer, amount: int) -> Reservation:
        """Keep `amount` micro-units for one answer. Raises PaymentRequired, saying what is missing, and
        ViewStale.
        """
        channel = self._market.channel(payer.account)

        def act(books: ChannelLedger) -> Reservation:
            books.check(channel, payer.key_id, amount, self._max_lag_seconds)
            expires_at = books.now + timedelta(seconds=self._reservation_seconds)
            reservation = Reservation(secrets.token_hex(16), channel, payer.key_id, amount, expires_at)
            books.keep(reservation)
            return reservation

        kept: Reservation = await self._commits.ask(_Entry(channel, payer.key_id, act))
        return kept

    async def release(self, reservation: Reservation) -> None:
        def act(books: ChannelLedger) -> None:
            books.release(reservation.id)

        await self._commits.ask(_Entry(reservation.channel_id, None, act))

    async def settle(self, payer: Payer, reservation: Reservation, bill: Bill) -> NewReceipt:
        """Exchange the reservation for a signed receipt at the end of the line; durable when this returns.

        Raises ReservationLost, and charges nothing, if the reservation has expired or is too small.
        """
        trace = traces.current_traceparent()  # of the answer: what is written together is written elsewhere

        def act(books: ChannelLedger) -> NewReceipt:
            return self._market.charged(books, payer, reservation, bill, self._receipt_key, trace)

        stored: NewReceipt = await self._commits.ask(_Entry(reservation.channel_id, payer.key_id, act))
        return stored

    def _look(self, entries: Sequence[_Entry]) -> list[Any]:
        with self._db.read() as tx:
            books = ChannelLedger.opened(tx, *_names(entries), self._clock())
        return [_outcome(entry, books) for entry in entries]

    def _commit(self, entries: Sequence[_Entry]) -> list[Any]:
        with self._db.begin() as tx:
            channels, keys = _names(entries)
            tx.channels.lock(*channels)
            books = ChannelLedger.opened(tx, channels, keys, self._clock())
            outcomes = [_outcome(entry, books) for entry in entries]
            books.write(tx)
        return outcomes


def receipt_of(channel: ChannelId, cumulative: int, bill: Bill, served_at: int) -> Receipt:
    """What is signed for an answer that brings its channel to `cumulative`. `served_at`: Unix seconds."""
    return Receipt(
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


def _names(entries: Sequence[_Entry]) -> tuple[Collection[ChannelId], Collection[str]]:
    return {e.channel for e in entries}, {e.key_id for e in entries if e.key_id is not None}


def _outcome(entry: _Entry, books: ChannelLedger) -> Any:
    """What is refused to one is no reason to refuse the others."""
    try:
        return entry.act(books)
    except Exception as error:  # noqa: BLE001 - a signer out of reach is its caller's error too
        return error
