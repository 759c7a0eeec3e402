"""Repository of MinHash sketches, which finds near duplicates without loading a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    CompoundSelect,
    Select,
    Subquery,
    delete,
    func,
    literal,
    select,
    tuple_,
    union,
    union_all,
)
from sqlalchemy.orm import aliased

from backend.db.bulk import insert_all
from backend.db.session import copy_if_absent
from backend.db.tables.contributions import RowHashRow, UploadRow
from backend.db.tables.near_duplicates import DatanetBandRow, RowSketchRow
from backend.domain.ids import Account, DatanetId
from backend.domain.near_duplicates import NUM_BANDS, NearCopy, similarity_ppm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from backend.domain.near_duplicates import Sketch

BANDS = [f"band_{band}" for band in range(NUM_BANDS)]


class SketchStore:
    """Sketches of rows, by upload."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, upload_id: str, rows: Sequence[tuple[int, Sketch]]) -> None:
        """Add (line, sketch) of further rows, not yet published."""
        values = [
            {"upload_id": upload_id, "line": line, **dict(zip(BANDS, sketch, strict=True))}
            for line, sketch in rows
        ]
        insert_all(self._session, RowSketchRow, values)

    def drop(self, upload_id: str, limit: int) -> bool:
        """Delete up to `limit` sketches, none of them published; False if none was left."""
        lines = self._lines(upload_id, 0, limit)
        if lines:
            row = RowSketchRow
            self._session.execute(delete(row).where(row.upload_id == upload_id, row.line <= lines[-1]))
        return bool(lines)

    def drop_lines(self, upload_id: str, lines: Sequence[int]) -> None:
        """Delete the sketches of these rows, none of them published."""
        row = RowSketchRow
        self._session.execute(delete(row).where(row.upload_id == upload_id, row.line.in_(lines)))

    def publish(self, upload_id: str, after: int, limit: int) -> int | None:
        """Let other uploads of the datanet find the next `limit` rows by lines above `after`.

        Returns the last one's line; None if none was left. Publishing again changes nothing.
        """
        lines = self._lines(upload_id, after, limit)
        if not lines:
            return None
        columns = ["datanet", "band", "upload_id", "line"]
        copy_if_absent(self._session, DatanetBandRow, columns, self._bands(upload_id, after, lines[-1]))
        return lines[-1]

    def retract(self, upload_id: str, after: int, limit: int) -> int | None:
        """The reverse of `publish`; the sketches stay."""
        lines = self._lines(upload_id, after, limit)
        if not lines:
            return None
        row = DatanetBandRow
        key = tuple_(row.datanet, row.band, row.upload_id, row.line)
        self._session.execute(delete(row).where(key.in_(self._bands(upload_id, after, lines[-1]))))
        return lines[-1]

    def near_copies(self, upload_id: str) -> Iterator[NearCopy]:
        """Candidates: different rows that share a band, within the upload, then with published rows of its
        datanet; by line. The caller filters by similarity.
        """
        datanet = DatanetId(self._session.get_one(UploadRow, upload_id).datanet)
        yield from self._compared(upload_id, _repeated(upload_id))
        yield from self._compared(upload_id, _of_others(upload_id, datanet))

    def _compared(self, upload_id: str, pairs: Subquery) -> Iterator[NearCopy]:
        """Pairs of different rows with the similarity of their sketches."""
        ours, theirs, other = RowSketchRow, aliased(RowSketchRow), UploadRow
        our_row, their_row = RowHashRow, aliased(RowHashRow)
        bands = [getattr(sketch, band) for sketch in (ours, theirs) for band in BANDS]
        query = (
            select(pairs.c.line, pairs.c.of_upload, pairs.c.of_line, other.account, other.index, *bands)
            .join(ours, (ours.upload_id == upload_id) & (ours.line == pairs.c.line))
            .join(theirs, (theirs.upload_id == pairs.c.of_upload) & (theirs.line == pairs.c.of_line))
            .join(our_row, (our_row.upload_id == upload_id) & (our_row.line == pairs.c.line))
            .join(their_row, (their_row.upload_id == pairs.c.of_upload) & (their_row.line == pairs.c.of_line))
            .join(other, other.id == pairs.c.of_upload)
            .where(our_row.row_hash != their_row.row_hash)
            .order_by(pairs.c.line, pairs.c.of_line)
        )
        for line, of_upload, of_line, account, index, *both in self._session.execute(query):
            alike = similarity_ppm(both[:NUM_BANDS], both[NUM_BANDS:])
            yield NearCopy(line, of_upload, of_line, Account(account), index, alike)

    def _lines(self, upload_id: str, after: int, limit: int) -> list[int]:
        row = RowSketchRow
        query = select(row.line).where(row.upload_id == upload_id, row.line > after)
        return list(self._session.scalars(query.order_by(row.line).limit(limit)))

    def _bands(self, upload_id: str, after: int, last: int) -> CompoundSelect[Any]:
        """(datanet, band, upload, line) of the rows with lines in `(after, last]`."""
        row, datanet = RowSketchRow, literal(self._session.get_one(UploadRow, upload_id).datanet)
        these = (row.upload_id == upload_id, row.line > after, row.line <= last)
        return union_all(
            *(select(datanet, getattr(row, band), row.upload_id, row.line).where(*these) for band in BANDS)
        )


def _repeated(upload_id: str) -> Subquery:
    """Each row with the first row of the upload that shares a band with it."""
    return union(*(_repeated_by(upload_id, band) for band in BANDS)).subquery()


def _repeated_by(upload_id: str, band: str) -> Select[Any]:
    # No self-join, which would be quadratic on a band that all rows share.
    row = RowSketchRow
    first = func.min(row.line).over(partition_by=getattr(row, band)).label("of_line")
    rows = (
        select(row.line, row.upload_id.label("of_upload"), first).where(row.upload_id == upload_id).subquery()
    )
    return select(rows).where(rows.c.line > rows.c.of_line)


def _of_others(upload_id: str, datanet: DatanetId) -> Subquery:
    """Each row with one row of another upload in the datanet that shares a band with it."""
    return union(*(_of_others_by(upload_id, datanet, band) for band in BANDS)).subquery()


def _of_others_by(upload_id: str, datanet: DatanetId, band: str) -> Select[Any]:
    # One row per band, found by one index lookup however many rows share the band.
    row, known = RowSketchRow, DatanetBandRow
    value = getattr(row, band)
    other = select(func.min(known.upload_id)).where(
        known.datanet == datanet, known.band == value, known.upload_id != upload_id
    )
    held = select(row.line, value.label("band"), other.scalar_subquery().label("of_upload")).where(
        row.upload_id == upload_id
    )
    held_rows = held.subquery()
    of_line = select(func.min(known.line)).where(
        known.datanet == datanet,
        known.band == held_rows.c.band,
        known.upload_id == held_rows.c.of_upload,
    )
    return select(held_rows.c.line, held_rows.c.of_upload, of_line.scalar_subquery().label("of_line")).where(
        held_rows.c.of_upload.is_not(None)
    )
