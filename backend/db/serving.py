"""Repositories of channels and of receipts."""

from __future__ import annotations

from dataclasses import asdict
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, exists, func, insert, select, update
from sqlalchemy.orm import aliased

from backend.db.bulk import among, execute_among, found_among, in_chunks, insert_all, table_of, update_all
from backend.db.mapping import columns_of, from_row
from backend.db.open_charges import IS_IN_NO_BATCH, IS_OPEN, ZERO, first_unfunded, is_funded
from backend.db.session import insert_if_absent
from backend.db.tables.chain import ChannelRow
from backend.db.tables.serving import (
    CumulativeRow,
    HeldKeyRow,
    MoveRow,
    ReceiptRow,
    ReceiptSliceRow,
    ReservationRow,
    VoucherRow,
)
from backend.db.tables.transactions import TransactionRow
from backend.db.usage import joined, summed, usage_by_day
from backend.domain.channels import Move
from backend.domain.errors import Conflict
from backend.domain.hashing import pack_list
from backend.domain.ids import Account, ChannelId, Hash32, ReceiptId, VersionId
from backend.domain.receipt import PackedShares, Receipt, SignedReceipt, Slice
from backend.domain.serving import DayUsage, Line, NewReceipt, Reservation, StoredReceipt, Waiver
from backend.domain.settlement import Backlog
from backend.domain.transactions import TransactionState
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

_LINES = select(
    CumulativeRow.channel_id, CumulativeRow.charged, CumulativeRow.waive_from, CumulativeRow.waive_until
).where(among(CumulativeRow.channel_id))
_KNOWN_LINES = select(CumulativeRow.channel_id).where(among(CumulativeRow.channel_id))
_LOCKED_LINES = _KNOWN_LINES.order_by(CumulativeRow.channel_id).with_for_update()
_RESERVATIONS = select(*columns_of(ReservationRow, Reservation)).where(among(ReservationRow.channel_id))
_DROPPED = delete(table_of(ReservationRow)).where(among(ReservationRow.id))
_VOUCHERS = (
    select(*columns_of(VoucherRow, Voucher), VoucherRow.signature, VoucherRow.signer)
    .where(among(VoucherRow.channel_id))
    .order_by(VoucherRow.channel_id, VoucherRow.max_cumulative.desc(), VoucherRow.signer)
)
_HELD_KEYS = select(HeldKeyRow.channel_id, HeldKeyRow.key).where(among(HeldKeyRow.channel_id))
_MOVES = (
    select(*columns_of(MoveRow, Move))
    .join(TransactionRow, TransactionRow.id == MoveRow.transaction_id)
    .where(among(MoveRow.channel_id), TransactionRow.state != TransactionState.FAILED)
    .order_by(MoveRow.transaction_id)
)
_ROWS_AT_ONCE = 100
_IS_SIGNED = ReceiptRow.signature.is_not(None)
_EARLIER = aliased(ReceiptRow)
_IS_READY = ~exists().where(
    _EARLIER.channel_id == ReceiptRow.channel_id,
    _EARLIER.signature.is_(None),
    _EARLIER.charge > ZERO,
    _EARLIER.cumulative <= ReceiptRow.cumulative,
)
_SIGNED_AGAIN = (
    update(table_of(ReceiptRow))
    .where(ReceiptRow.id == bindparam("receipt"), ReceiptRow.batch.is_(None))
    .values(signer=bindparam("new_signer"), signature=bindparam("new_signature"))
)
_ADDED = insert(table_of(ReceiptRow)).returning(table_of(ReceiptRow).c.sequence, sort_by_parameter_order=True)


class ChannelStore:
    """Charges, reservations, vouchers and moves of channels. Amounts in micro-units."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lock(self, *channels: ChannelId) -> None:
        """Lock these channels' cumulatives, reservations and keys' spending until this transaction ends."""
        # In one order everywhere, new lines before those that are there: no two can wait for each other.
        ordered = sorted(set(channels))
        known = {channel for (channel,) in found_among(self._session, _KNOWN_LINES, ordered)}
        for channel in ordered:
            if channel not in known:
                insert_if_absent(self._session, CumulativeRow, channel_id=channel, charged=0)
        if self._session.get_bind().dialect.name == "postgresql":  # on SQLite a writer is alone anyway
            found_among(self._session, _LOCKED_LINES, ordered)

    def charged(self, channels: Collection[ChannelId]) -> dict[ChannelId, int]:
        """Cumulative charge of each channel; channels without one are left out."""
        return {channel: line.charged for channel, line in self.lines(channels).items()}

    def lines(self, channels: Collection[ChannelId]) -> dict[ChannelId, Line]:
        """As `charged`, with what has to be waived."""
        rows = found_among(self._session, _LINES, channels)
        return {
            ChannelId(Hash32(channel)): Line(charged, Waiver(start, until))
            for channel, charged, start, until in rows
        }

    def waivers(self) -> dict[ChannelId, Waiver]:
        """What has to be waived; channels that need no waiver are left out."""
        row = CumulativeRow
        columns = select(row.channel_id, row.waive_from, row.waive_until)
        found = self._session.execute(columns.where(row.waive_until > 0))
        return {ChannelId(Hash32(channel)): Waiver(start, until) for channel, start, until in found}

    def demand_waivers(self, waivers: Mapping[ChannelId, Waiver]) -> None:
        """Lock these channels, and set what has to be waived."""
        self.lock(*waivers)
        rows = [
            {"channel_id": channel, "waive_from": waiver.start, "waive_until": waiver.until}
            for channel, waiver in waivers.items()
        ]
        update_all(self._session, CumulativeRow, "channel_id", rows)

    def advance(self, lines: Mapping[ChannelId, int]) -> None:
        """Set the cumulative charges of channels that are locked."""
        ends = [{"channel_id": channel, "charged": charged} for channel, charged in lines.items()]
        update_all(self._session, CumulativeRow, "channel_id", ends)

    def reservations(self, channels: Collection[ChannelId]) -> list[Reservation]:
        """All reservations of these channels, expired ones included."""
        rows = found_among(self._session, _RESERVATIONS, channels)
        return [Reservation(*row) for row in rows]

    def reserved(self, now: datetime) -> frozenset[str]:
        """Ids of the reservations that count at this time: those of running answers."""
        query = select(ReservationRow.id).where(ReservationRow.expires_at > now)
        return frozenset(self._session.scalars(query))

    def add_reservations(self, reservations: Sequence[Reservation]) -> None:
        rows = [{name: getattr(new, name) for name in Reservation.__slots__} for new in reservations]
        insert_all(self._session, ReservationRow, rows)

    def drop_reservations(self, reservation_ids: Sequence[str]) -> None:
        """Unknown ids are ignored."""
        execute_among(self._session, _DROPPED, reservation_ids)

    def put_voucher(self, voucher: ClientVoucher) -> None:
        """Store it as this signer's voucher of the channel."""
        signed = voucher.signed
        self._session.merge(
            VoucherRow(
                channel_id=signed.voucher.channel_id,
                signer=voucher.signer,
                waived_until=signed.voucher.waived_until,
                max_cumulative=signed.voucher.max_cumulative,
                signature=signed.signature,
            )
        )
        self._session.flush()

    def vouchers(self, *channels: ChannelId) -> Sequence[ClientVoucher]:
        """The latest voucher of each signer."""
        rows = found_among(self._session, _VOUCHERS, channels)
        return [
            ClientVoucher(SignedVoucher(Voucher(*voucher), signature), signer)
            for *voucher, signature, signer in rows
        ]

    def add_held_key(self, channel: ChannelId, key: Account) -> None:
        self._session.add(HeldKeyRow(channel_id=channel, key=key))
        self._session.flush()

    def held_keys(self, channel: ChannelId) -> Sequence[Account]:
        """Session keys that the gateway holds for the channel, newest first."""
        rows = self._session.scalars(
            select(HeldKeyRow.key).where(HeldKeyRow.channel_id == channel).order_by(HeldKeyRow.id.desc())
        )
        return [Account(key) for key in rows]

    def keys_held(self, channels: Collection[ChannelId]) -> list[tuple[ChannelId, Account]]:
        """All session keys that the gateway holds, each with its channel."""
        rows = found_among(self._session, _HELD_KEYS, channels)
        return [(ChannelId(Hash32(channel)), Account(key)) for channel, key in rows]

    def add_move(self, move: Move) -> None:
        insert_all(self._session, MoveRow, [asdict(move)])

    def moves(self, channels: Collection[ChannelId]) -> list[Move]:
        """Moves out of these channels, oldest first, except those whose transactions have failed."""
        return [Move(*row) for row in found_among(self._session, _MOVES, channels)]


class ReceiptStore:
    """Signed receipts. A receipt is *unsettled* while it is assigned to no batch, and *ready* once those of
    all earlier intervals of its channel are signed too: a batch leaves no gaps.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, *receipts: NewReceipt) -> None:
        if not receipts:
            return
        rows = [_values(new) for new in receipts]
        insert_receipts(self._session, rows, [new.signed.slices for new in receipts])

    def get(self, receipt: ReceiptId) -> StoredReceipt | None:
        row = self._session.scalars(select(ReceiptRow).where(ReceiptRow.id == receipt)).one_or_none()
        return None if row is None else _stored(row)

    def known(self, receipts: Collection[ReceiptId]) -> set[ReceiptId]:
        """Those of the receipts that are stored."""
        found: set[ReceiptId] = set()
        for some in in_chunks(receipts):
            ids = self._session.scalars(select(ReceiptRow.id).where(ReceiptRow.id.in_(some)))
            found |= {ReceiptId(Hash32(each)) for each in ids if each is not None}
        return found

    def intervals(self, channel: ChannelId, start: int, end: int) -> list[tuple[int, int]]:
        """Begins and ends of the channel's charges that lie or overlap between `start` and `end`, rising."""
        of_channel = select(ReceiptRow.cumulative, ReceiptRow.charge).where(ReceiptRow.channel_id == channel)
        rows = self._session.execute(
            of_channel.where(ReceiptRow.cumulative > start, ReceiptRow.charge > ZERO)
            .order_by(ReceiptRow.cumulative)
            .execution_options(yield_per=_ROWS_AT_ONCE)
        )
        intervals = ((cumulative - charge, cumulative) for cumulative, charge in rows)
        return list(takewhile(lambda interval: interval[0] < end, intervals))

    def page(self, payer: Account, before: int | None, limit: int) -> Sequence[StoredReceipt]:
        """Newest first, those with a `sequence` below `before`. Charges without a receipt are left out."""
        query = select(ReceiptRow).where(ReceiptRow.payer == payer, _IS_SIGNED)
        if before is not None:
            query = query.where(ReceiptRow.sequence < before)
        rows = self._session.scalars(query.order_by(ReceiptRow.sequence.desc()).limit(limit))
        return [_stored(row) for row in rows]

    def usage(self, payer: Account, since: int, until: int) -> Sequence[DayUsage]:
        """Usage served from `since` to before `until`, unix seconds; by day and then by model."""
        return usage_by_day(self._session, payer, since, until)

    def backlogs(self, operator: Account) -> Sequence[Backlog]:
        """Channels of this operator with unsettled, ready receipts that their balance covers, the one with
        the oldest of them first. Receipts that were or have to be waived do not count.
        """
        oldest, first = func.min(ReceiptRow.served_at), first_unfunded(operator)
        rows = self._session.execute(
            select(ReceiptRow.channel_id, func.count(), oldest, *summed(ReceiptRow.charge))
            .outerjoin(ChannelRow, ChannelRow.id == ReceiptRow.channel_id)
            .outerjoin(CumulativeRow, CumulativeRow.channel_id == ReceiptRow.channel_id)
            .outerjoin(first, first.c.channel_id == ReceiptRow.channel_id)
            .where(ReceiptRow.operator == operator, IS_OPEN, is_funded(first), _IS_READY)
            .group_by(ReceiptRow.channel_id)
            .order_by(oldest, ReceiptRow.channel_id)
        )
        return [
            Backlog(ChannelId(Hash32(channel)), count, joined(amounts), since)
            for channel, count, since, *amounts in rows
        ]

    def unsettled(self, channel: ChannelId, after: int, limit: int) -> Sequence[SignedReceipt]:
        """The first `limit` unsettled, ready receipts of the channel above the cumulative `after`, rising."""
        rows = self._session.scalars(
            select(ReceiptRow)
            .where(
                ReceiptRow.channel_id == channel,
                IS_IN_NO_BATCH,
                ReceiptRow.cumulative > after,
                _IS_READY,
            )
            .order_by(ReceiptRow.cumulative)
            .limit(limit)
        )
        return [_signed(row) for row in rows]

    def unsettled_among(self, receipts: Collection[ReceiptId]) -> Sequence[SignedReceipt]:
        """Those of these receipts that are unsettled, each channel's rising."""
        found: list[ReceiptRow] = []
        for some in in_chunks(receipts):
            is_named = ReceiptRow.id.in_(some)
            found += self._session.scalars(select(ReceiptRow).where(is_named, ReceiptRow.batch.is_(None)))
        return [_signed(row) for row in sorted(found, key=lambda row: (row.channel_id, row.cumulative))]

    def signed_by_others(self, operator: Account, signers: Collection[Account]) -> Sequence[ReceiptId]:
        """The operator's unsettled receipts that none of these receipt keys signed, without free ones."""
        is_unsettled = (ReceiptRow.operator == operator) & IS_IN_NO_BATCH & _IS_SIGNED
        query = select(ReceiptRow.id).where(is_unsettled, ReceiptRow.signer.not_in(signers))
        return [ReceiptId(Hash32(receipt)) for receipt in self._session.scalars(query) if receipt is not None]

    def sign_again(self, signer: Account, signatures: Mapping[ReceiptId, str]) -> None:
        """Replace the signatures of receipts that are still unsettled by those of another receipt key."""
        rows = [
            {"receipt": id_, "new_signer": signer, "new_signature": text} for id_, text in signatures.items()
        ]
        if rows:
            self._session.connection().execute(_SIGNED_AGAIN, rows)
        self._session.expire_all()  # receipts that were read before hold the replaced signature

    def assign(self, operator: Account, batch: int, receipts: Sequence[ReceiptId]) -> None:
        """Mark unsettled receipts as being in this batch. Errors: `Conflict` if one of them is in any."""
        for some in in_chunks(receipts):
            is_ours = ReceiptRow.id.in_(some) & (ReceiptRow.operator == operator)
            assigned = self._session.execute(
                update(ReceiptRow)
                .where(is_ours, ReceiptRow.batch.is_(None))
                .values(batch=batch)
                .returning(ReceiptRow.id)
            ).all()
            if len(assigned) != len(set(some)):
                raise Conflict(
                    f"{len(set(some)) - len(assigned)} receipts are unknown or in a batch.",
                    param="receipts",
                )

    def traces(self, operator: Account, batch: int, limit: int) -> Sequence[str]:
        """Traces of the answers in this batch, as far as they were recorded."""
        of_batch = (ReceiptRow.operator == operator) & (ReceiptRow.batch == batch)
        found = select(ReceiptRow.trace).where(of_batch, ReceiptRow.trace.is_not(None)).limit(limit)
        return [trace for trace in self._session.scalars(found) if trace is not None]

    def adopt(self, operator: Account, batch: int, receipts: Sequence[ReceiptId]) -> int:
        """Assign those of the receipts that are stored here and unsettled; returns their number."""
        adopted = 0
        for some in in_chunks(receipts):
            is_ours = ReceiptRow.id.in_(some) & (ReceiptRow.operator == operator)
            found = self._session.execute(
                update(ReceiptRow)
                .where(is_ours, ReceiptRow.batch.is_(None))
                .values(batch=batch)
                .returning(ReceiptRow.id)
            )
            adopted += len(found.all())
        return adopted

    def release(self, operator: Account, batch: int) -> int:
        """Make the batch's receipts unsettled again. Returns their number, which may be 0."""
        released = self._session.execute(
            update(ReceiptRow)
            .where(ReceiptRow.operator == operator, ReceiptRow.batch == batch)
            .values(batch=None)
            .returning(ReceiptRow.id)
        )
        return len(released.all())


def insert_receipts(
    session: Session, rows: Sequence[Mapping[str, Any]], slices: Sequence[Sequence[Slice]]
) -> list[int]:
    """Insert rows of `receipts` with their slices; returns their sequences."""
    if not rows:
        return []
    sequences = list(session.connection().execute(_ADDED, rows).scalars())
    parts = [
        {
            "receipt_sequence": sequence,
            "number": number,
            "version_id": part.version_id,
            "weight_ppm": part.weight_ppm,
            "shares": pack_list(part.shares),
        }
        for sequence, of_one in zip(sequences, slices, strict=True)
        for number, part in enumerate(of_one)
    ]
    insert_all(session, ReceiptSliceRow, parts)
    return sequences


def slices_of(row: ReceiptRow) -> tuple[Slice, ...]:
    return tuple(
        Slice(VersionId(Hash32(part.version_id)), part.weight_ppm, tuple(PackedShares(part.shares)))
        for part in row.slices
    )


def _values(new: NewReceipt) -> dict[str, Any]:
    signed = new.signed
    return {name: getattr(signed.receipt, name) for name in Receipt.__slots__} | {
        "id": new.id,
        "operator": new.operator,
        "payer": new.payer,
        "key_id": new.key_id,
        "salt": new.salt,
        "method": signed.method,
        "signature": signed.signature,
        "signer": new.signer,
        "trace": new.trace,
    }


def _stored(row: ReceiptRow) -> StoredReceipt:
    return from_row(StoredReceipt, row, signed=_signed(row))


def _signed(row: ReceiptRow) -> SignedReceipt:
    if row.signature is None:
        raise ValueError(f"the receipt {row.sequence} is not signed")
    return SignedReceipt(from_row(Receipt, row), row.method, slices_of(row), row.signature)
