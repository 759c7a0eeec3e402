"""Repository of published answers, with which the answers of uploaded rows are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import not_, select

from backend.db.bulk import insert_all_absent, table_of
from backend.db.chain import record_of
from backend.db.tables.catalogue import DescriptionRow
from backend.db.tables.chain import VersionRow
from backend.db.tables.denials import DenialRow
from backend.db.tables.published_answers import PublishedAnswersRow
from backend.domain.denials import Denied
from backend.domain.ids import DatanetId, Hash32, VersionId
from backend.domain.published_answers import AnswerShingles

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session

    from backend.domain.receipt import VersionRecord

_v, _d, _a = (table_of(entity).c for entity in (VersionRow, DescriptionRow, PublishedAnswersRow))
NO_DATANET = 0


class PublishedAnswerStore:
    def __init__(self, session: Session) -> None:
        self._session = session

    def unread(
        self, base_models: Collection[Hash32], excluded: Collection[VersionId], limit: int
    ) -> list[tuple[VersionId, VersionRecord]]:
        """Versions of these base models whose folder is stored here, as its card was read, and whose answers
        are not stored, oldest first.
        """
        query = (
            select(table_of(VersionRow))
            .join(DescriptionRow, _d.version_id == _v.id)
            .outerjoin(PublishedAnswersRow, _a.version_id == _v.id)
            .where(_v.base_model.in_(base_models), _d.card_due_at.is_(None), _a.version_id.is_(None))
            .where(not_(_v.id.in_(excluded)))
            .order_by(_v.block_number, _v.log_index)
            .limit(limit)
        )
        return [(VersionId(Hash32(row.id)), record_of(row)) for row in self._session.execute(query)]

    def put(self, answers: AnswerShingles, datanets: Collection[DatanetId]) -> None:
        """Store a version's answers. Those of a version that has some are not changed."""
        rows = [
            {
                "version_id": answers.version,
                "datanet": datanet,
                "shingles": answers.shingles,
                "lengths": answers.lengths,
            }
            for datanet in sorted({int(each) for each in datanets}) or [NO_DATANET]
        ]
        insert_all_absent(self._session, PublishedAnswersRow, rows)

    def of_datanet(self, datanet: DatanetId, limit: int) -> list[AnswerShingles]:
        """Answers of the newest `limit` registered versions, oldest first, without adapters that the operator
        denies.
        """
        denied = select(DenialRow.subject).where(DenialRow.kind == Denied.ADAPTER)
        query = (
            select(_a.version_id, _a.shingles, _a.lengths)
            .join(VersionRow, _v.id == _a.version_id)
            .where(_a.datanet == datanet, not_(_v.adapter_digest.in_(denied)), _a.lengths != b"")
            .order_by(_v.block_number.desc(), _v.log_index.desc())
            .limit(limit)
        )
        found = [
            AnswerShingles(VersionId(Hash32(version)), shingles, lengths)
            for version, shingles, lengths in self._session.execute(query)
        ]
        return found[::-1]
