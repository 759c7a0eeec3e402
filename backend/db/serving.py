"""Repositories of channels' lines and of receipts; both serve the settlement's ports too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, update

from backend.db.session import insert_if_absent
from backend.db.tables.chain import ChannelRow
from backend.db.tables.serving import (
    HeldKeyRow,
    LineRow,
    ReceiptRow,
    ReceiptSliceRow,
    ReservationRow,
    VoucherRow,
)
from backend.domain.errors import Conflict
from backend.domain.hashing import pack_list
from backend.domain.ids import Account, ChannelId, Hash32, ReceiptId, VersionId
from backend.domain.receipt import Receipt, Share, SignedReceipt, Slice
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.ports.serving import NewReceipt, Reservation, StoredReceipt
from backend.ports.settlement import Backlog

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

_ID_CHUNK = 500
"""Ids named in one statement; SQLite limits the number of its variables."""


class ChannelStore:
    """Implements `ChannelRepository` of `ports.serving` and `SettlementVouchers` of `ports.settlement`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lock(self, channel: ChannelId) -> int:
        insert_if_absent(self._session, LineRow, channel_id=channel, charged=0)
        return self._session.execute(
            select(LineRow.charged).where(LineRow.channel_id == channel).with_for_update()
        ).scalar_one()

    def charged(self, channel: ChannelId) -> int:
        charged = self._session.scalar(select(LineRow.charged).where(LineRow.channel_id == channel))
        return charged or 0

    def advance(self, channel: ChannelId, charged: int) -> None:
        self._session.execute(update(LineRow).where(LineRow.channel_id == channel).values(charged=charged))

    def add_reservation(self, reservation: Reservation) -> None:
        self._session.add(
            ReservationRow(
                id=reservation.id,
                channel_id=reservation.channel_id,
                key_id=reservation.key_id,
                amount=reservation.amount,
                expires_at=reservation.expires_at,
            )
        )
        self._session.flush()

    def take_reservation(self, reservation_id: str, now: datetime) -> Reservation | None:
        row = self._session.get(ReservationRow, reservation_id)
        if row is None:
            return None
        expired = (ReservationRow.channel_id == row.channel_id) & (ReservationRow.expires_at <= now)
        self._session.execute(delete(ReservationRow).where((ReservationRow.id == reservation_id) | expired))
        if row.expires_at <= now:
            return None
        return Reservation(row.id, ChannelId(Hash32(row.channel_id)), row.key_id, row.amount, row.expires_at)

    def reserved(self, channel: ChannelId, now: datetime) -> int:
        return self._reserved(ReservationRow.channel_id == channel, now)

    def reserved_by_key(self, key_id: str, now: datetime) -> int:
        return self._reserved(ReservationRow.key_id == key_id, now)

    def put_voucher(self, voucher: ClientVoucher) -> None:
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

    def vouchers(self, channel: ChannelId) -> Sequence[ClientVoucher]:
        rows = self._session.scalars(
            select(VoucherRow)
            .where(VoucherRow.channel_id == channel)
            .order_by(VoucherRow.max_cumulative.desc(), VoucherRow.signer)
        )
        return [ClientVoucher(_voucher(row), Account(row.signer)) for row in rows]

    def add_held_key(self, channel: ChannelId, key: Account) -> None:
        self._session.add(HeldKeyRow(channel_id=channel, key=key))
        self._session.flush()

    def held_keys(self, channel: ChannelId) -> Sequence[Account]:
        rows = self._session.scalars(
            select(HeldKeyRow.key).where(HeldKeyRow.channel_id == channel).order_by(HeldKeyRow.id.desc())
        )
        return [Account(key) for key in rows]

    def _reserved(self, condition: ColumnElement[bool], now: datetime) -> int:
        # Summed here: the database would add the amounts as floating-point numbers.
        amounts = self._session.scalars(
            select(ReservationRow.amount).where(condition, ReservationRow.expires_at > now)
        )
        return sum(amounts)


class ReceiptStore:
    """Implements `ReceiptRepository` of `ports.serving` and `SettlementReceipts` of `ports.settlement`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, receipt: NewReceipt) -> None:
        signed = receipt.signed
        values = {name: getattr(signed.receipt, name) for name in Receipt.__slots__}
        row = ReceiptRow(
            id=receipt.id,
            operator=receipt.operator,
            payer=receipt.payer,
            key_id=receipt.key_id,
            salt=receipt.salt,
            method=signed.method,
            signature=signed.signature,
            **values,
        )
        row.slices = [
            ReceiptSliceRow(
                number=number,
                version_id=part.version_id,
                weight_ppm=part.weight_ppm,
                shares=pack_list(part.shares),
            )
            for number, part in enumerate(signed.slices)
        ]
        self._session.add(row)
        self._session.flush()

    def get(self, receipt: ReceiptId) -> StoredReceipt | None:
        row = self._session.scalars(select(ReceiptRow).where(ReceiptRow.id == receipt)).one_or_none()
        return None if row is None else _stored(row)

    def page(self, payer: Account, before: int | None, limit: int) -> Sequence[StoredReceipt]:
        query = select(ReceiptRow).where(ReceiptRow.payer == payer)
        if before is not None:
            query = query.where(ReceiptRow.sequence < before)
        rows = self._session.scalars(query.order_by(ReceiptRow.sequence.desc()).limit(limit))
        return [_stored(row) for row in rows]

    def backlogs(self, operator: Account) -> Sequence[Backlog]:
        oldest = func.min(ReceiptRow.served_at)
        rows = self._session.execute(
            select(ReceiptRow.channel_id, func.count(), oldest)
            .outerjoin(ChannelRow, ChannelRow.id == ReceiptRow.channel_id)
            .where(ReceiptRow.operator == operator, ReceiptRow.batch.is_(None), ReceiptRow.charge > 0)
            .where(ChannelRow.id.is_(None) | (ReceiptRow.cumulative > ChannelRow.collected))
            .group_by(ReceiptRow.channel_id)
            .order_by(oldest, ReceiptRow.channel_id)
        )
        return [Backlog(ChannelId(Hash32(channel)), count, since) for channel, count, since in rows]

    def unsettled(self, channel: ChannelId, after: int, limit: int) -> Sequence[SignedReceipt]:
        rows = self._session.scalars(
            select(ReceiptRow)
            .where(
                ReceiptRow.channel_id == channel,
                ReceiptRow.batch.is_(None),
                ReceiptRow.charge > 0,
                ReceiptRow.cumulative > after,
            )
            .order_by(ReceiptRow.cumulative)
            .limit(limit)
        )
        return [_signed(row) for row in rows]

    def assign(self, operator: Account, batch: int, receipts: Sequence[ReceiptId]) -> None:
        for start in range(0, len(receipts), _ID_CHUNK):
            chunk = receipts[start : start + _ID_CHUNK]
            is_ours = ReceiptRow.id.in_(chunk) & (ReceiptRow.operator == operator)
            is_free = ReceiptRow.batch.is_(None) | (ReceiptRow.batch == batch)
            assigned = self._session.execute(
                update(ReceiptRow).where(is_ours, is_free).values(batch=batch).returning(ReceiptRow.id)
            ).all()
            if len(assigned) != len(set(chunk)):
                raise Conflict(
                    f"{len(set(chunk)) - len(assigned)} receipts are unknown or in another batch.",
                    param="receipts",
                )

    def adopt(self, operator: Account, batch: int, receipts: Sequence[ReceiptId]) -> int:
        adopted = 0
        for start in range(0, len(receipts), _ID_CHUNK):
            is_ours = ReceiptRow.id.in_(receipts[start : start + _ID_CHUNK]) & (
                ReceiptRow.operator == operator
            )
            found = self._session.execute(
                update(ReceiptRow)
                .where(is_ours, ReceiptRow.batch.is_(None))
                .values(batch=batch)
                .returning(ReceiptRow.id)
            )
            adopted += len(found.all())
        return adopted

    def release(self, operator: Account, batch: int) -> int:
        released = self._session.execute(
            update(ReceiptRow)
            .where(ReceiptRow.operator == operator, ReceiptRow.batch == batch)
            .values(batch=None)
            .returning(ReceiptRow.id)
        )
        return len(released.all())


def _voucher(row: VoucherRow) -> SignedVoucher:
    voucher = Voucher(ChannelId(Hash32(row.channel_id)), row.waived_until, row.max_cumulative)
    return SignedVoucher(voucher, row.signature)


def _stored(row: ReceiptRow) -> StoredReceipt:
    return StoredReceipt(
        sequence=row.sequence,
        id=ReceiptId(Hash32(row.id)),
        operator=Account(row.operator),
        payer=Account(row.payer),
        signed=_signed(row),
        salt=Hash32(row.salt),
        key_id=row.key_id,
        batch=row.batch,
    )


def _signed(row: ReceiptRow) -> SignedReceipt:
    receipt = Receipt(
        channel_id=ChannelId(Hash32(row.channel_id)),
        cumulative=row.cumulative,
        charge=row.charge,
        request_hash=Hash32(row.request_hash),
        response_hash=Hash32(row.response_hash),
        slices_hash=Hash32(row.slices_hash),
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        attribution_hash=Hash32(row.attribution_hash),
        served_at=row.served_at,
    )
    slices = tuple(
        Slice(VersionId(Hash32(part.version_id)), part.weight_ppm, _unpack_list(part.shares))
        for part in row.slices
    )
    return SignedReceipt(receipt, row.method, slices, row.signature)


def _unpack_list(packed: bytes) -> tuple[Share, ...]:
    words = [int.from_bytes(packed[i : i + 4], "big") for i in range(0, len(packed), 4)]
    return tuple(Share(position, ppm) for position, ppm in zip(words[::2], words[1::2], strict=True))
