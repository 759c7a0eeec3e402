"""Exact sums over a payer's receipts, computed by the database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, String, cast, func, select, type_coerce

from backend.db.bulk import in_chunks
from backend.db.tables.serving import ReceiptRow, ReceiptSliceRow
from backend.domain.days import DAY_SECONDS, EPOCH
from backend.domain.ids import Account, Hash32, VersionId
from backend.domain.serving import DayUsage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute, Session

_DIGITS, _PART = 39, 13
"""Amounts have 39 digits. Each third is summed separately; 64 bits hold the sums of 900,000 receipts."""


def usage_by_day(session: Session, payer: Account, since: int, until: int) -> list[DayUsage]:
    """Usage of a payer per day and model; see `ReceiptStore.usage`."""
    day = ReceiptRow.served_at // DAY_SECONDS
    rows = session.execute(
        select(
            day,
            ReceiptRow.slices_hash,
            func.count(),
            func.sum(ReceiptRow.prompt_tokens),
            func.sum(ReceiptRow.completion_tokens),
            func.min(ReceiptRow.sequence),
            *summed(ReceiptRow.charge),
        )
        .where(ReceiptRow.payer == payer, ReceiptRow.served_at >= since, ReceiptRow.served_at < until)
        .group_by(day, ReceiptRow.slices_hash)
        .order_by(day, ReceiptRow.slices_hash)
    ).all()
    versions = _versions(session, [row[5] for row in rows])
    return [
        DayUsage(
            day=EPOCH + timedelta(int(number)),
            slices_hash=Hash32(slices_hash),
            versions=tuple(versions[example]),
            num_answers=count,
            prompt_tokens=int(prompt_tokens),
            completion_tokens=int(completion_tokens),
            spend=joined(sums),
        )
        for number, slices_hash, count, prompt_tokens, completion_tokens, example, *sums in rows
    ]


def answers_by_version(
    session: Session, after: int, until: int, limit: int
) -> tuple[int, Sequence[tuple[str, int, int, int]]]:
    """Receipts after sequence number `after` that were served before `until` (unix seconds), at most `limit`.

    Returns their number and, for each version and day (since 1970-01-01), the number of its answers and the
    last sequence number. Sequence numbers may be committed out of order, so `until` must be some seconds ago.
    """
    row, part = ReceiptRow, ReceiptSliceRow
    newest = select(row.sequence).where(row.served_at < until).order_by(row.sequence.desc()).limit(1)
    next_ones = select(row.sequence).where(row.sequence > after, row.sequence <= newest.scalar_subquery())
    chosen = next_ones.order_by(row.sequence).limit(limit).subquery()
    num_receipts, last = session.execute(select(func.count(), func.max(chosen.c.sequence))).one()
    if last is None:
        return 0, []
    day = row.served_at // DAY_SECONDS
    found = session.execute(
        select(part.version_id, day, func.count(), func.max(row.sequence))
        .join(row, row.sequence == part.receipt_sequence)
        .where(row.sequence > after, row.sequence <= last)
        .group_by(part.version_id, day)
    )
    return num_receipts, [(version, int(number), count, newest) for version, number, count, newest in found]


def summed(amount: InstrumentedAttribute[int]) -> list[ColumnElement[int | None]]:
    """Columns with the partial sums of an exact sum; `joined` combines them."""
    digits = type_coerce(amount, String)
    starts = range(1, _DIGITS, _PART)
    return [func.sum(cast(func.substr(digits, start, _PART), BigInteger)) for start in starts]


def joined(parts: Sequence[Any]) -> int:
    """The sum from its partial sums. NULLs count as 0."""
    total = 0
    for part in parts:
        total = total * 10**_PART + int(part or 0)
    return total


def _versions(session: Session, receipts: list[int]) -> dict[int, list[tuple[VersionId, int]]]:
    """Versions and weights (ppm) of each receipt, by receipt sequence."""
    found: dict[int, list[tuple[VersionId, int]]] = {sequence: [] for sequence in receipts}
    part = ReceiptSliceRow
    for some in in_chunks(receipts):
        rows = session.execute(
            select(part.receipt_sequence, part.version_id, part.weight_ppm)
            .where(part.receipt_sequence.in_(some))
            .order_by(part.receipt_sequence, part.number)
        )
        for sequence, version, weight_ppm in rows:
            found[sequence].append((VersionId(Hash32(version)), weight_ppm))
    return found
