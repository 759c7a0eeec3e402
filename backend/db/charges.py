"""Repository of charges: intervals of channels that are charged before their receipts are signed.

Charge and receipt share one row of `receipts`, so that an interval has one receipt at most. It is signed by a
statement that changes unsigned rows only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from backend.db.bulk import insert_all
from backend.db.mapping import from_row
from backend.db.serving import insert_receipts, slices_of
from backend.db.tables.serving import ChargeRow, ReceiptRow, ReceiptSliceRow
from backend.domain.errors import Conflict
from backend.domain.hashing import attribution_hash, pack_list
from backend.domain.ids import ChannelId, ChargeId, Hash32
from backend.domain.receipt import Attributed, Charge, SignedCharge
from backend.domain.serving import StoredCharge

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from backend.domain.ids import Account, ReceiptId
    from backend.domain.receipt import SignedReceipt
    from backend.domain.serving import NewCharge

_SHARED = set(Charge.__slots__) - {"receipt_by"}
"""Fields of a charge that are columns of its receipt."""
_CHARGES = select(ReceiptRow, ChargeRow).join(ChargeRow, ChargeRow.receipt_sequence == ReceiptRow.sequence)
_IS_UNSIGNED = ReceiptRow.signature.is_(None)


class ChargeStore:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, *charges: NewCharge) -> None:
        sequences = insert_receipts(
            self._session, [_values(new) for new in charges], [new.fallback.slices for new in charges]
        )
        rows = [
            {
                "id": new.id,
                "receipt_sequence": sequence,
                "receipt_by": new.signed.charge.receipt_by,
                "signature": new.signed.signature,
                "signer": new.signer,
            }
            for sequence, new in zip(sequences, charges, strict=True)
        ]
        insert_all(self._session, ChargeRow, rows)

    def get(self, charge: ChargeId) -> StoredCharge | None:
        return next(iter(self._found(_CHARGES.where(ChargeRow.id == charge))), None)

    def of_receipt(self, receipt: ReceiptId) -> StoredCharge | None:
        """The charge before this receipt; None if the answer was charged by the receipt itself."""
        return next(iter(self._found(_CHARGES.where(ReceiptRow.id == receipt))), None)

    def unsigned(self, charges: Collection[ChargeId]) -> Sequence[StoredCharge]:
        """Those of the charges that have no receipt yet."""
        return self._found(_CHARGES.where(ChargeRow.id.in_(charges), _IS_UNSIGNED))

    def overdue(self, operator: Account, now: int, limit: int) -> list[tuple[ChargeId, ChannelId]]:
        """At most `limit` of the operator's charges whose receipts were due by `now`, the oldest first."""
        rows = self._session.execute(
            select(ChargeRow.id, ReceiptRow.channel_id)
            .join(ReceiptRow, ChargeRow.receipt_sequence == ReceiptRow.sequence)
            .where(_IS_UNSIGNED, ReceiptRow.operator == operator, ChargeRow.receipt_by <= now)
            .order_by(ChargeRow.receipt_by, ReceiptRow.sequence)
            .limit(limit)
        )
        return [(ChargeId(Hash32(charge)), ChannelId(Hash32(channel))) for charge, channel in rows]

    def sign(self, charge: ChargeId, receipt: ReceiptId, signed: SignedReceipt, signer: Account) -> None:
        """Store the receipt of a charge. Errors: `Conflict` if it has one."""
        sequence = select(ChargeRow.receipt_sequence).where(ChargeRow.id == charge).scalar_subquery()
        set_sequence = self._session.execute(
            update(ReceiptRow)
            .where(ReceiptRow.sequence == sequence, _IS_UNSIGNED)
            .values(
                id=receipt,
                method=signed.method,
                attribution_hash=signed.receipt.attribution_hash,
                signature=signed.signature,
                signer=signer,
            )
            .returning(ReceiptRow.sequence)
            .execution_options(synchronize_session=False)
        ).scalar()
        if set_sequence is None:
            raise Conflict(f"The charge {charge} is unknown or has a receipt.", param="charge")
        for number, part in enumerate(signed.slices):
            is_part = (ReceiptSliceRow.receipt_sequence == set_sequence) & (ReceiptSliceRow.number == number)
            self._session.execute(
                update(ReceiptSliceRow)
                .where(is_part)
                .values(shares=pack_list(part.shares))
                .execution_options(synchronize_session=False)
            )
        self._session.expire_all()

    def _found(self, query: Select[ReceiptRow, ChargeRow]) -> list[StoredCharge]:
        return [_stored(receipt, charge) for receipt, charge in self._session.execute(query)]


def _values(new: NewCharge) -> dict[str, Any]:
    """The columns of an unsigned receipt."""
    charge = new.signed.charge
    return {name: getattr(charge, name) for name in _SHARED} | {
        "id": None,
        "operator": new.operator,
        "payer": new.payer,
        "key_id": new.key_id,
        "salt": new.salt,
        "method": new.fallback.method,
        "attribution_hash": attribution_hash(new.fallback.method, new.fallback.slices),
        "signature": None,
        "signer": None,
        "trace": new.trace,
    }


def _stored(receipt: ReceiptRow, charge: ChargeRow) -> StoredCharge:
    signed = SignedCharge(from_row(Charge, receipt, receipt_by=charge.receipt_by), charge.signature)
    attributed = Attributed(receipt.method, slices_of(receipt))
    number = ChargeId(Hash32(charge.id))
    return from_row(
        StoredCharge, receipt, id=number, signed=signed, attributed=attributed, receipt=receipt.id
    )
