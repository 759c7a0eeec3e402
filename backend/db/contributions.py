"""Repository of uploads and their rows' hashes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, delete, func, select, union, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from backend.db.bulk import insert_all
from backend.db.paging import newest_first
from backend.db.tables.contributions import RowHashRow, UploadRow
from backend.domain.contribution import (
    WITHDRAWAL,
    Copy,
    PersonalData,
    PersonalFinding,
    PersonalKind,
    Profile,
    Report,
    SigningRequest,
    Upload,
    UploadState,
)
from backend.domain.dataset import Defect, RowFormat
from backend.domain.errors import Conflict, NotFound
from backend.domain.ids import Account, DatanetId
from backend.domain.near_duplicates import NearCopies, NearCopy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from backend.domain.ids import Hash32

LINES_AT_ONCE = 1000


class UploadStore:
    """Uploads and the hashes of their rows."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, upload: Upload) -> None:
        self._session.add(UploadRow(id=upload.id, **_columns(upload)))
        self._session.flush()

    def get(self, upload_id: str) -> Upload | None:
        row = self._session.get(UploadRow, upload_id)
        return None if row is None else _upload(row)

    def locked(self, upload_id: str) -> Upload | None:
        """The upload, locked against changes until this transaction ends."""
        row = self._session.get(UploadRow, upload_id, with_for_update=True, populate_existing=True)
        return None if row is None else _upload(row)

    def save(self, upload: Upload) -> None:
        row = self._session.get(UploadRow, upload.id)
        if row is None:
            raise NotFound(f"no upload {upload.id}", "upload_id")
        for name, value in _columns(upload).items():
            setattr(row, name, value)
        self._session.flush()

    def remove(self, upload_id: str) -> None:
        """Delete the upload and its rows."""
        self._session.execute(delete(RowHashRow).filter_by(upload_id=upload_id))
        self._session.execute(delete(UploadRow).filter_by(id=upload_id))

    def find(
        self,
        account: Account | None = None,
        datanet: DatanetId | None = None,
        limit: int = 100,
        after: str | None = None,
        without: Collection[UploadState] = (),
    ) -> list[Upload]:
        """Uploads after upload `after` in none of the states `without`, newest first. Errors: `InvalidInput`
        if `after` is not one of them; its state is not checked.
        """
        wanted = {"account": account, "datanet": datanet}
        query = select(UploadRow).filter_by(
            **{name: value for name, value in wanted.items() if value is not None}
        )
        shown = UploadRow.state.not_in(without)
        return [_upload(row) for row in newest_first(self._session, query, UploadRow, after, limit, shown)]

    def is_shared(self, upload: Upload) -> bool:
        """Whether another upload, not withdrawn, has the same folder, which names account and datanet."""
        query = select(UploadRow.id).filter_by(account=upload.account, datanet=upload.datanet)
        query = query.where(UploadRow.id != upload.id, UploadRow.state.not_in(WITHDRAWAL))
        query = query.where(UploadRow.report["cid"].as_string() == upload.report.cid)
        return self._session.scalar(query.limit(1)) is not None

    def in_states(self, states: Iterable[UploadState], before: datetime | None = None) -> list[str]:
        """Ids of uploads in these states, oldest first; with `before`, only those created, and failed if they
        have `failed_at`, before it.
        """
        query = select(UploadRow.id).where(UploadRow.state.in_(list(states)))
        if before is not None:
            failed_before = UploadRow.failed_at.is_(None) | (UploadRow.failed_at < before)
            query = query.where(UploadRow.created_at < before, failed_before)
        return list(self._session.scalars(query.order_by(UploadRow.created_at, UploadRow.id)))

    def following(self, after: str, limit: int) -> list[Upload]:
        """The first `limit` uploads with ids above `after`, by id."""
        query = select(UploadRow).where(UploadRow.id > after).order_by(UploadRow.id).limit(limit)
        return [_upload(row) for row in self._session.scalars(query)]

    def next_nonce(self, account: Account) -> int:
        """One above the highest nonce of the account's submitted uploads; 0 if it has none."""
        highest = select(func.max(UploadRow.nonce)).filter_by(account=account, state=UploadState.SUBMITTED)
        found = self._session.scalar(highest)
        return 0 if found is None else found + 1

    def add_rows(self, upload_id: str, rows: Sequence[tuple[int, Hash32]]) -> None:
        """Add (line, row hash) of further rows, not yet claimed."""
        values = [{"upload_id": upload_id, "line": line, "row_hash": row_hash} for line, row_hash in rows]
        insert_all(self._session, RowHashRow, values)

    def copies(self, upload_id: str) -> Iterator[Copy]:
        """Rows that repeat an earlier row of the upload, then rows claimed by other uploads of its datanet.

        Each part is in line order.
        """
        account = Account(self._session.get_one(UploadRow, upload_id).account)
        for line, of_line in self._session.execute(_repeated(upload_id)):
            yield Copy(line, upload_id, of_line, account, None)
        claimed = _claimed_by_others(upload_id, self._datanet(upload_id))
        for line, of_upload, of_line, owner, index in self._session.execute(claimed):
            yield Copy(line, of_upload, of_line, Account(owner), index)

    def rows_by_line(self, upload_id: str) -> Iterator[tuple[int, bool]]:
        """(line, whether `copies` names it) of all rows, by line."""
        row = RowHashRow
        found = (_repeated(upload_id), _claimed_by_others(upload_id, self._datanet(upload_id)))
        lines = (query.order_by(None).with_only_columns(query.selected_columns[0]) for query in found)
        copies = union(*lines).subquery()
        query = (
            select(row.line, copies.c.line)
            .outerjoin(copies, copies.c.line == row.line)
            .where(row.upload_id == upload_id)
            .order_by(row.line)
        )
        rows = self._session.execute(query.execution_options(yield_per=LINES_AT_ONCE))
        for line, copied_line in rows:
            yield line, copied_line is not None

    def claim_rows(
        self, upload_id: str, after: str, limit: int, *, skips_claimed: bool = False
    ) -> str | None:
        """Claim the next `limit` rows, by hashes above `after`, for the upload in its datanet; with
        `skips_claimed` those of them that no upload claims.

        Returns the last one's hash; None if none was left. Errors: `Conflict` if another upload claims one.
        """
        datanet = self._datanet(upload_id)
        conditions = [_is_unclaimed(datanet)] if skips_claimed else []
        try:
            return self._set_claim(upload_id, datanet, after, limit, *conditions)
        except IntegrityError:
            raise Conflict(f"another upload has claimed a row of {upload_id}", "upload_id") from None

    def has_claimed_all(self, upload_id: str) -> bool:
        unclaimed = select(RowHashRow.line).filter_by(upload_id=upload_id, claimed_by_datanet=None).limit(1)
        return self._session.scalar(unclaimed) is None

    def release_rows(self, upload_id: str, after: str, limit: int) -> str | None:
        """Release the claims of the next `limit` rows, as `claim_rows`; the hashes stay."""
        return self._set_claim(upload_id, None, after, limit)

    def drop_lines(self, upload_id: str, lines: Sequence[int]) -> None:
        """Delete these rows of an upload that claims none."""
        row = RowHashRow
        self._session.execute(delete(row).where(row.upload_id == upload_id, row.line.in_(lines)))

    def drop_rows(self, upload_id: str, limit: int) -> bool:
        """Delete up to `limit` rows; False if none was left."""
        first = select(RowHashRow.line).filter_by(upload_id=upload_id).order_by(RowHashRow.line).limit(limit)
        lines = list(self._session.scalars(first))
        if lines:
            dropped = delete(RowHashRow).where(
                RowHashRow.upload_id == upload_id, RowHashRow.line <= lines[-1]
            )
            self._session.execute(dropped)
        return bool(lines)

    def _set_claim(
        self, upload_id: str, datanet: int | None, after: str, limit: int, *conditions: ColumnElement[bool]
    ) -> str | None:
        """Set or clear the claim of those of the next `limit` rows by hash that meet the conditions; returns
        the last hash.
        """
        row = RowHashRow
        above = select(row.row_hash).where(row.upload_id == upload_id, row.row_hash > after)
        chunk = above.order_by(row.row_hash).limit(limit).subquery()
        last: str | None = self._session.scalar(select(func.max(chunk.c.row_hash)))
        if last is not None:
            these = (row.upload_id == upload_id, row.row_hash > after, row.row_hash <= last)
            claim = update(row).where(*these, *conditions).values(claimed_by_datanet=datanet)
            self._session.execute(claim.execution_options(synchronize_session=False))
        return last

    def _datanet(self, upload_id: str) -> int:
        return self._session.get_one(UploadRow, upload_id).datanet


def _is_unclaimed(datanet: int) -> ColumnElement[bool]:
    """Whether no upload claims the row in the datanet."""
    claimed = aliased(RowHashRow)
    is_same = (claimed.row_hash == RowHashRow.row_hash, claimed.claimed_by_datanet == datanet)
    return ~select(claimed.line).where(*is_same).correlate(RowHashRow).exists()


def _repeated(upload_id: str) -> Select[int, int]:
    """(line, the first line with the same row), by line."""
    # A self-join would be quadratic wherever the database does not know yet how many rows were added.
    row = RowHashRow
    first = func.min(row.line).over(partition_by=row.row_hash).label("first")
    rows = select(row.line, first).where(row.upload_id == upload_id).subquery()
    return select(rows.c.line, rows.c.first).where(rows.c.line > rows.c.first).order_by(rows.c.line)


def _claimed_by_others(upload_id: str, datanet: int) -> Select[int, str, int, str, int | None]:
    """(line, the upload that claims the row, its line, account and index), by line."""
    ours, theirs, other = RowHashRow, aliased(RowHashRow), UploadRow
    return (
        select(ours.line, theirs.upload_id, theirs.line, other.account, other.index)
        .join(theirs, theirs.row_hash == ours.row_hash)
        .join(other, other.id == theirs.upload_id)
        .where(ours.upload_id == upload_id, theirs.upload_id != upload_id)
        .where(theirs.claimed_by_datanet == datanet)
        .order_by(ours.line)
    )


def _columns(upload: Upload) -> dict[str, Any]:
    signing_request = upload.signing_request
    return {
        "account": upload.account,
        "datanet": upload.datanet,
        "name": upload.name,
        "state": upload.state,
        "created_at": upload.created_at,
        "report": asdict(upload.report),
        "nonce": None if signing_request is None else signing_request.nonce,
        "deadline": None if signing_request is None else signing_request.deadline,
        "transaction_id": upload.transaction_id,
        "index": upload.index,
        "reason": upload.reason,
        "error": None if upload.error is None else dict(upload.error),
        "failed_at": upload.failed_at,
    }


def _upload(row: UploadRow) -> Upload:
    has_signing_request = row.nonce is not None and row.deadline is not None
    return Upload(
        id=row.id,
        account=Account(row.account),
        datanet=DatanetId(row.datanet),
        name=row.name,
        state=UploadState(row.state),
        created_at=row.created_at,
        report=_report(row.report),
        signing_request=SigningRequest(row.nonce or 0, row.deadline or 0) if has_signing_request else None,
        transaction_id=row.transaction_id,
        index=row.index,
        reason=row.reason,
        error=row.error,
        failed_at=row.failed_at,
    )


def _report(raw: dict[str, Any]) -> Report:
    kind, profile, near = raw["format"], raw.get("profile"), raw.get("near_copies")
    personal = raw.get("personal_data")
    parts = {
        "format": None if kind is None else RowFormat(kind),
        "defects": tuple(Defect(**defect) for defect in raw["defects"]),
        "profile": None if profile is None else Profile(**profile),
        "personal_data": None if personal is None else _personal_data(personal),
        "near_copies": None if near is None else _near_copies(near),
    }
    return Report(**{**raw, **parts})


def _near_copies(raw: dict[str, Any]) -> NearCopies:
    return NearCopies(**{**raw, "first": tuple(NearCopy(**one) for one in raw["first"])})


def _personal_data(raw: dict[str, Any]) -> PersonalData:
    counts = {PersonalKind(kind): count for kind, count in raw["counts"].items()}
    findings = ({**one, "kind": PersonalKind(one["kind"])} for one in raw["first"])
    return PersonalData(counts, tuple(PersonalFinding(**one) for one in findings))
