"""Repository of adapter inspections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from backend.db.tables.inspections import InspectionRow
from backend.domain.ids import Hash32
from backend.domain.screening import Inspection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

_AT_A_TIME = 200


class InspectionStore:
    """Inspections of adapters."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, inspection: Inspection) -> None:
        """Add an inspection, in place of an earlier one of the same adapter."""
        self._session.merge(
            InspectionRow(
                adapter_digest=inspection.adapter_digest,
                base_model=inspection.base_model,
                sketch=inspection.sketch,
                statistics=dict(inspection.statistics),
            )
        )
        self._session.flush()

    def get(self, adapter_digest: Hash32) -> Inspection | None:
        row = self._session.get(InspectionRow, adapter_digest)
        return None if row is None else _inspection(row)

    def digests(self, base_model: Hash32) -> set[Hash32]:
        query = select(InspectionRow.adapter_digest).filter_by(base_model=base_model)
        return {Hash32(digest) for digest in self._session.scalars(query)}

    def of_base(self, base_model: Hash32) -> Iterator[Inspection]:
        """Inspections with a sketch. Loads a few at a time."""
        query = select(InspectionRow).filter_by(base_model=base_model)
        query = query.where(func.length(InspectionRow.sketch) > 0).order_by(InspectionRow.adapter_digest)
        for row in self._session.scalars(query.execution_options(yield_per=_AT_A_TIME)):
            yield _inspection(row)


def _inspection(row: InspectionRow) -> Inspection:
    return Inspection(Hash32(row.adapter_digest), Hash32(row.base_model), row.sketch, row.statistics)
