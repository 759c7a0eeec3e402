"""Conditions on charges that are in no batch, for queries of receipts that outer-join their channels."""

from __future__ import annotations

from backend.db.tables.chain import ChannelRow
from backend.db.tables.serving import ReceiptRow

_IS_UNKNOWN = ChannelRow.id.is_(None)  # its channel is not indexed yet
IS_OPEN = (
    ReceiptRow.batch.is_(None)
    & (ReceiptRow.charge > 0)
    & (_IS_UNKNOWN | (ReceiptRow.cumulative > ChannelRow.collected))
)
"""In no batch, and not waived: receipts up to a channel's collected amount were."""
IS_FUNDED = _IS_UNKNOWN | (ChannelRow.balance > 0)
"""Its channel has a balance, from which it may be collected."""
