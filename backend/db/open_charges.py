"""Conditions on charges that are in no batch, for queries of receipts.

Those of channels are for queries that outer-join `ChannelRow` and `CumulativeRow`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, literal, not_, select

from backend.db.base import Amount
from backend.db.tables.chain import ChannelRow
from backend.db.tables.serving import CumulativeRow, ReceiptRow

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Subquery

    from backend.domain.ids import Account

ZERO = literal(0, Amount, literal_execute=True)
"""Written into the statement: with a parameter, databases would not use the index of charged receipts."""
IS_IN_NO_BATCH = ReceiptRow.batch.is_(None) & (ReceiptRow.charge > ZERO)
"""Charged, and in no batch. Free receipts are never batched."""

_IS_UNKNOWN = ChannelRow.id.is_(None)  # its channel is not indexed yet
_WAIVE_FROM = func.coalesce(CumulativeRow.waive_from, ZERO)
_WAIVE_UNTIL = func.coalesce(CumulativeRow.waive_until, ZERO)
_IS_CONVICTED = (ReceiptRow.cumulative > _WAIVE_FROM) & (ReceiptRow.cumulative <= _WAIVE_UNTIL)
IS_OPEN = (
    IS_IN_NO_BATCH & (_IS_UNKNOWN | (ReceiptRow.cumulative > ChannelRow.collected)) & not_(_IS_CONVICTED)
)
"""In no batch, and not waived: receipts up to a channel's collected amount were. Those that the payer has to
waive are never collected either.
"""


def first_unfunded(operator: Account) -> Subquery:
    """By `channel_id`, the cumulative of its first open receipt whose charge exceeds its balance. Neither
    that one nor those behind it can be collected unless the payer deposits again.
    """
    return (
        select(ReceiptRow.channel_id, func.min(ReceiptRow.cumulative).label("cumulative"))
        .join(ChannelRow, ChannelRow.id == ReceiptRow.channel_id)
        .outerjoin(CumulativeRow, CumulativeRow.channel_id == ReceiptRow.channel_id)
        .where(ReceiptRow.operator == operator, IS_OPEN, ReceiptRow.charge > ChannelRow.balance)
        .group_by(ReceiptRow.channel_id)
        .subquery("first_unfunded")
    )


def is_funded(first: Subquery) -> ColumnElement[bool]:
    """Whether its channel's balance covers the receipt, and it comes before the `first_unfunded` one of the
    channel, which is outer-joined.
    """
    is_covered = _IS_UNKNOWN | (ReceiptRow.charge <= ChannelRow.balance)
    return is_covered & (first.c.cumulative.is_(None) | (ReceiptRow.cumulative < first.c.cumulative))
