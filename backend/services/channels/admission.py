"""Reserves a channel's balance before an answer runs, and charges the answer with a signed receipt
afterwards.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from backend.domain.hashing import channel_id, charge_id, receipt_id, to_bytes
from backend.domain.money import in_dollars
from backend.domain.receipt import Attributed, Charge, Receipt, SignedCharge, SignedReceipt
from backend.domain.serving import NewCharge, NewReceipt, Reservation
from backend.services.channels.group_commit import GroupCommit
from backend.services.channels.ledger import ChannelLedger, ReservationLost
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId, Hash32
    from backend.domain.receipt import Slice
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Signer


@dataclass(frozen=True, slots=True)
class Payer:
    """The account that pays for an answer, and the API key of the request if it had one."""

    account: Account
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Counterparty:
    """The payers' counterparty in the channels here: operator, collector (`Settlement`), and EIP-712 domain
    of the receipts.
    """

    operator: Account
    collector: Account
    receipts: TypedDomain

    @property
    def pair(self) -> tuple[Account, Account]:
        """Operator and collector, as the vault's functions take them."""
        return self.operator, self.collector

    def channel(self, payer: Account) -> ChannelId:
        return channel_id(payer, self.operator, self.collector)

    def issue_receipt(
        self,
        ledger: ChannelLedger,
        payer: Payer,
        reservation: Reservation,
        bill: Bill,
        receipt_key: Signer,
        trace: str | None,
    ) -> NewReceipt:
        """Sign the receipt that follows the channel's last one, and replace the reservation by it in the
        ledger.

        Raises ReservationLost, and charges nothing, if the reservation has expired or is too small.
        """
        cumulative = _next_cumulative(ledger, reservation, bill)
        receipt = build_receipt(reservation.channel_id, cumulative, bill, int(ledger.now.timestamp()))
        number = receipt_id(receipt)
        signature = receipt_key.sign(self.receipts.digest(to_bytes(number)))
        signed = SignedReceipt(receipt, bill.method, bill.slices, signature)
        signer, key_id = receipt_key.account, payer.key_id
        stored = NewReceipt(number, self.operator, payer.account, signed, signer, bill.salt, key_id, trace)
        ledger.charge(reservation, stored)
        return stored

    def issue_charge(
        self,
        ledger: ChannelLedger,
        payer: Payer,
        reservation: Reservation,
        bill: Bill,
        receipt_key: Signer,
        trace: str | None,
        receipt_seconds: int,
    ) -> NewCharge:
        """`issue_receipt` for an answer whose receipt follows in `receipt_seconds`. The bill's attribution is
        the fallback.
        """
        cumulative = _next_cumulative(ledger, reservation, bill)
        charge = build_charge(
            reservation.channel_id, cumulative, bill, int(ledger.now.timestamp()), receipt_seconds
        )
        stored = NewCharge(
            id=charge_id(charge),
            operator=self.operator,
            payer=payer.account,
            signed=SignedCharge(charge, receipt_key.sign(self.receipts.charge_digest(charge))),
            fallback=Attributed(bill.method, bill.slices),
            signer=receipt_key.account,
            salt=bill.salt,
            key_id=payer.key_id,
            trace=trace,
        )
        ledger.charge(reservation, stored)
        return stored


@dataclass(frozen=True, slots=True)
class Bill:
    """A receipt without its cumulative and its time."""

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
class _Operation:
    """One operation on the ledger of a channel and of the API key that is used."""

    channel: ChannelId
    key_id: str | None
    apply: Callable[[ChannelLedger, Callable[[], Signer]], Any]
    """Called with the ledger and with the receipt key in use."""


class Admission:
    """Reservations and receipts of all channels of one operator. Any number of processes may share a
    database.

    Concurrent operations run in one transaction, in the order of their calls. Each call returns once that
    transaction is durable, so a crash never loses a result that a caller has seen.
    """

    def __init__(
        self,
        db: Database,
        counterparty: Counterparty,
        receipt_key: Callable[[ChainView], Signer],
        clock: Callable[[], datetime],
        reservation_seconds: int,
        max_lag_seconds: int,
    ) -> None:
        """`receipt_key`: the key in use by this view of the chain. `max_lag_seconds`: maximum age of the last
        indexed block for a reservation.
        """
        self._db = db
        self._counterparty = counterparty
        self._receipt_key = receipt_key
        self._clock = clock
        self._reservation_seconds = reservation_seconds
        self._max_lag_seconds = max_lag_seconds
        self._reads: GroupCommit[_Operation, Any] = GroupCommit(self._read, "admission-read")
        self._writes: GroupCommit[_Operation, Any] = GroupCommit(self._write, "admission-write")

    async def check(self, payer: Payer, amount: int) -> None:
        """Raise what `reserve` would raise now. Reserves nothing and takes no lock."""
        channel = self._counterparty.channel(payer.account)

        def apply(ledger: ChannelLedger, _: Callable[[], Signer]) -> None:
            ledger.check(channel, payer.key_id, amount, self._max_lag_seconds)

        await self._reads.submit(_Operation(channel, payer.key_id, apply))

    async def reserve(self, payer: Payer, amount: int) -> Reservation:
        """Reserve `amount` micro-units for one answer.

        Raises PaymentRequired, which names what is missing, ViewStale, and what `receipt_key` raises.
        """
        channel = self._counterparty.channel(payer.account)

        def apply(ledger: ChannelLedger, receipt_key: Callable[[], Signer]) -> Reservation:
            receipt_key()  # without one the answer could not be charged
            ledger.check(channel, payer.key_id, amount, self._max_lag_seconds)
            expires_at = ledger.now + timedelta(seconds=self._reservation_seconds)
            reservation = Reservation(secrets.token_hex(16), channel, payer.key_id, amount, expires_at)
            ledger.reserve(reservation)
            return reservation

        reserved: Reservation = await self._writes.submit(_Operation(channel, payer.key_id, apply))
        return reserved

    async def release(self, reservation: Reservation) -> None:
        def apply(ledger: ChannelLedger, _: Callable[[], Signer]) -> None:
            ledger.release(reservation.id)

        await self._writes.submit(_Operation(reservation.channel_id, None, apply))

    async def charge(self, payer: Payer, reservation: Reservation, bill: Bill) -> NewReceipt:
        """Replace the reservation by a signed receipt, which is durable when this returns.

        Raises ReservationLost, and charges nothing, if the reservation has expired or is too small.
        """
        trace = traces.current_traceparent()  # the answer's span: the group is written in another thread

        def apply(ledger: ChannelLedger, receipt_key: Callable[[], Signer]) -> NewReceipt:
            return self._counterparty.issue_receipt(ledger, payer, reservation, bill, receipt_key(), trace)

        stored: NewReceipt = await self._writes.submit(
            _Operation(reservation.channel_id, payer.key_id, apply)
        )
        return stored

    async def charge_first(
        self, payer: Payer, reservation: Reservation, bill: Bill, receipt_seconds: int
    ) -> NewCharge:
        """As `charge`, with a signed charge whose receipt `Charges` signs within `receipt_seconds`."""
        trace = traces.current_traceparent()

        def apply(ledger: ChannelLedger, receipt_key: Callable[[], Signer]) -> NewCharge:
            return self._counterparty.issue_charge(
                ledger, payer, reservation, bill, receipt_key(), trace, receipt_seconds
            )

        stored: NewCharge = await self._writes.submit(_Operation(reservation.channel_id, payer.key_id, apply))
        return stored

    def _read(self, operations: Sequence[_Operation]) -> list[Any]:
        with self._db.read() as tx:
            ledger = ChannelLedger.load(tx, *_channels_and_keys(operations), self._clock())
            return self._outcomes(operations, ledger, tx)

    def _write(self, operations: Sequence[_Operation]) -> list[Any]:
        with self._db.begin() as tx:
            channels, keys = _channels_and_keys(operations)
            tx.channels.lock(*channels)
            ledger = ChannelLedger.load(tx, channels, keys, self._clock())
            outcomes = self._outcomes(operations, ledger, tx)
            ledger.write(tx)
        return outcomes

    def _outcomes(self, operations: Sequence[_Operation], ledger: ChannelLedger, tx: UnitOfWork) -> list[Any]:
        key_in_use = cache(lambda: self._receipt_key(tx.chain))
        return [_outcome(operation, ledger, key_in_use) for operation in operations]


def build_receipt(channel: ChannelId, cumulative: int, bill: Bill, served_at: int) -> Receipt:
    """The receipt of an answer that raises its channel's cumulative to `cumulative`. `served_at`: unix
    seconds.
    """
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


def build_charge(
    channel: ChannelId, cumulative: int, bill: Bill, served_at: int, receipt_seconds: int
) -> Charge:
    """The charge of an answer, as `build_receipt`."""
    return Charge(
        channel_id=channel,
        cumulative=cumulative,
        charge=bill.charge,
        request_hash=bill.request_hash,
        response_hash=bill.response_hash,
        slices_hash=bill.slices_hash,
        prompt_tokens=bill.prompt_tokens,
        completion_tokens=bill.completion_tokens,
        served_at=served_at,
        receipt_by=served_at + receipt_seconds,
    )


def _next_cumulative(ledger: ChannelLedger, reservation: Reservation, bill: Bill) -> int:
    """The channel's cumulative with this bill. Errors: `ReservationLost`."""
    if bill.charge > reservation.amount:
        raise ReservationLost(
            f"The answer costs {in_dollars(bill.charge)}, more than its reservation of "
            f"{in_dollars(reservation.amount)}."
        )
    return ledger.cumulative(reservation) + bill.charge


def _channels_and_keys(operations: Sequence[_Operation]) -> tuple[Collection[ChannelId], Collection[str]]:
    return {o.channel for o in operations}, {o.key_id for o in operations if o.key_id is not None}


def _outcome(operation: _Operation, ledger: ChannelLedger, receipt_key: Callable[[], Signer]) -> Any:
    """Result or error of one operation. The error of one does not fail the others of its group."""
    try:
        return operation.apply(ledger, receipt_key)
    except Exception as error:  # noqa: BLE001 - also an unreachable signer fails its own caller only
        return error
