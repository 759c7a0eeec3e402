"""Conditions on charges that are in no batch, for queries of receipts.

Those of channels are for queries that outer-join them.
"""

from __future__ import annotations

from sqlalchemy import literal

from backend.db.base import Amount
from backend.db.tables.chain import ChannelRow
from backend.db.tables.serving import ReceiptRow

ZERO = literal(0, Amount, literal_execute=True)
"""Written into the statement: with a parameter, databases would not use the index of charged receipts."""
IS_IN_NO_BATCH = ReceiptRow.batch.is_(None) & (ReceiptRow.charge > ZERO)
"""Charged, and in no batch. Free receipts are never batched."""

_IS_UNKNOWN = ChannelRow.id.is_(None)  # its channel is not indexed yet
IS_OPEN = IS_IN_NO_BATCH & (_IS_UNKNOWN | (ReceiptRow.cumulative > ChannelRow.collected))
"""In no batch, and not waived: receipts up to a channel's collected amount were."""
IS_FUNDED = _IS_UNKNOWN | (ChannelRow.balance >= ReceiptRow.charge)
"""Its channel's balance covers the charge. Others cannot be collected unless the payer deposits again."""
