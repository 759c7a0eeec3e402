"""Repository of the operator's denials and floor price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, tuple_

from backend.db.tables.denials import DenialRow, FloorRow
from backend.domain.denials import Denial, Denied, FloorPrice, Reason, Subject

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session


_FLOOR = 1
"""Primary key of the only row in `floor_price`."""


class DenialStore:
    """Denials of the operator, and its floor price."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, denial: Denial) -> None:
        """Add a denial, in place of an earlier one of the same subject."""
        subject = denial.subject
        self._session.merge(
            DenialRow(
                kind=subject.kind, subject=subject.id, reason=denial.reason, created_at=denial.created_at
            )
        )
        self._session.flush()

    def remove(self, subject: Subject) -> bool:
        """Remove the denial of a subject; False if there is none."""
        row = self._session.get(DenialRow, (subject.kind, subject.id))
        if row is None:
            return False
        self._session.delete(row)
        self._session.flush()
        return True

    def find(self, subjects: Collection[Subject]) -> list[Denial]:
        """Denials of these subjects."""
        keys = [(subject.kind.value, subject.id) for subject in subjects]
        query = select(DenialRow).where(tuple_(DenialRow.kind, DenialRow.subject).in_(keys))
        return [_denial(row) for row in self._session.scalars(query)]

    def all(self) -> list[Denial]:
        """All denials, oldest first."""
        query = select(DenialRow).order_by(DenialRow.created_at, DenialRow.kind, DenialRow.subject)
        return [_denial(row) for row in self._session.scalars(query)]

    def floor(self) -> FloorPrice:
        row = self._session.get(FloorRow, _FLOOR)
        return FloorPrice() if row is None else FloorPrice(row.prompt, row.completion)

    def is_floor_set(self) -> bool:
        return self._session.get(FloorRow, _FLOOR) is not None

    def set_floor(self, floor: FloorPrice) -> None:
        self._session.merge(FloorRow(id=_FLOOR, prompt=floor.prompt, completion=floor.completion))
        self._session.flush()


def _denial(row: DenialRow) -> Denial:
    return Denial(Subject(Denied(row.kind), row.subject), Reason(row.reason), row.created_at)
