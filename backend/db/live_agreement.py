"""Repository of sampled answers and of their agreement with the gradient."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, tuple_, update

from backend.db.bulk import among, found_among, in_chunks, insert_all_absent
from backend.db.mapping import from_row
from backend.db.session import insert_if_absent
from backend.db.tables.live_agreement import LiveAgreementRow as Row
from backend.db.tables.live_agreement import LiveSampleRow, LiveSamplingRow
from backend.db.tables.serving import ReceiptRow, ReceiptSliceRow
from backend.domain.ids import Hash32, VersionId
from backend.domain.live_agreement import LiveAgreement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

_ONLY = 1
"""Primary key of the only row in `live_sampling`."""
_CHUNK = 500
"""Rows that `served` reads at a time."""
_FIGURES = (Row.num_sampled, Row.num_measured, Row.num_unranked, Row.sum_ppm)
_PENDING = select(LiveSampleRow.response_hash).where(among(LiveSampleRow.response_hash)).distinct()
_ATTRIBUTED = (
    select(ReceiptRow.response_hash, ReceiptRow.served_at, ReceiptSliceRow.version_id)
    .join(ReceiptSliceRow, ReceiptSliceRow.receipt_sequence == ReceiptRow.sequence)
    .where(among(ReceiptRow.sequence), ReceiptSliceRow.shares != b"")
)


class LiveAgreementStore:
    """Sampling goes through the receipts in the order of `served_at`. It counts each sampled answer at once,
    so that one which is never measured is missing from the figures.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    # Sampling

    def served_until(self) -> int | None:
        """Answers served before this instant (unix seconds) were sampled or passed over; None before the
        first `start`.
        """
        row = self._session.get(LiveSamplingRow, _ONLY)
        return None if row is None else row.served_until

    def start(self, now: int) -> None:
        """Sample answers served from `now` on. Does nothing if sampling has started."""
        insert_if_absent(self._session, LiveSamplingRow, id=_ONLY, served_until=now)

    def stop(self) -> None:
        """Sample nothing until the next `start`. The figures remain."""
        self._session.execute(delete(LiveSamplingRow))

    def first_served(self, since: int) -> int | None:
        """When the first answer was served of those served from `since` on."""
        return self._session.scalar(
            select(func.min(ReceiptRow.served_at)).where(ReceiptRow.served_at >= since)
        )

    def served(self, since: int, until: int) -> Iterator[tuple[int, Hash32]]:
        """Sequence and response hash of each receipt or charge served from `since` to before `until`, in the
        order of `served_at`. Reads `_CHUNK` at a time: after an outage they are any number.
        """
        place = tuple_(ReceiptRow.served_at, ReceiptRow.sequence)
        columns = ReceiptRow.served_at, ReceiptRow.sequence, ReceiptRow.response_hash
        query = select(*columns).where(ReceiptRow.served_at < until).order_by(*columns[:2]).limit(_CHUNK)
        last = since, -1
        while rows := self._session.execute(query.where(place > last)).all():
            for _, sequence, response in rows:
                yield sequence, Hash32(response)
            last = rows[-1].served_at, rows[-1].sequence

    def sample(self, since: int, until: int, receipts: Sequence[int], lost_before: int) -> None:
        """Count as sampled those of these receipts, given by sequence, that are attributed: they are all that
        blocks sample of those served from `since` to before `until`. Idempotent: nothing is counted unless
        `served_until` is `since`. Samples served before `lost_before` are not measured any more.
        """
        is_due = LiveSamplingRow.served_until == since
        moved = update(LiveSamplingRow).where(is_due).values(served_until=until).returning(LiveSamplingRow.id)
        if self._session.execute(moved).scalar() is None:
            return
        counts: Counter[str] = Counter()
        for some in in_chunks(receipts):
            found = found_among(self._session, _ATTRIBUTED, some)
            insert_all_absent(self._session, LiveSampleRow, [row._asdict() for row in found])
            counts.update(row.version_id for row in found)
        for version in sorted(counts):  # one order for all processes: no deadlocks
            zeros = {column.key: 0 for column in _FIGURES}
            insert_if_absent(self._session, Row, version_id=version, **zeros)
            self._add(version, num_sampled=counts[version])
        self._session.execute(delete(LiveSampleRow).where(LiveSampleRow.served_at < lost_before))

    # Measurements

    def pending(self, answers: Sequence[Hash32]) -> set[Hash32]:
        """Those of the answers, given by response hash, that are sampled and not measured."""
        found = found_among(self._session, _PENDING, answers)
        return {Hash32(row.response_hash) for row in found}

    def measure(self, answer: Hash32, agreements: Mapping[VersionId, int | None]) -> None:
        """Add an answer's agreements to the figures: of each version in ppm, None if the gradient ranks none
        of its contributions. Idempotent: versions for which the answer is not pending are left out.
        """
        for version in sorted(agreements):
            is_pending = (LiveSampleRow.response_hash == answer) & (LiveSampleRow.version_id == version)
            found = self._session.execute(
                delete(LiveSampleRow).where(is_pending).returning(LiveSampleRow.version_id)
            ).scalar()
            agreement = agreements[version]
            if found is not None and agreement is None:
                self._add(version, num_unranked=1)
            elif found is not None:
                self._add(version, num_measured=1, sum_ppm=agreement or 0)

    # Figures

    def of(self, versions: Sequence[VersionId]) -> dict[VersionId, LiveAgreement]:
        """Figures of those of the versions of which an answer was sampled."""
        rows = self._session.scalars(select(Row).where(Row.version_id.in_(versions)))
        return {VersionId(Hash32(row.version_id)): from_row(LiveAgreement, row) for row in rows}

    def total(self) -> LiveAgreement:
        """Figures of all versions together."""
        sums = self._session.execute(select(*(func.sum(column) for column in _FIGURES))).one()
        return LiveAgreement(*(int(number or 0) for number in sums))

    def _add(self, version: str, **numbers: int) -> None:
        sums = {name: getattr(Row, name) + number for name, number in numbers.items()}
        self._session.execute(
            update(Row)
            .where(Row.version_id == version)
            .values(sums)
            .execution_options(synchronize_session=False)
        )
