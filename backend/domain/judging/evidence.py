"""Finds equivocation: a second receipt that the operator signed over money of a batch."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from backend.domain.disputes.proofs import EquivocationProof
from backend.domain.disputes.receipt_rules import overlap
from backend.domain.hashing import receipt_id
from backend.domain.judging.case import Finding, Wrong

if TYPE_CHECKING:
    from backend.domain.batch import Batch
    from backend.domain.ids import ChannelId
    from backend.domain.judging.case import Case, IsSigned
    from backend.domain.receipt import Receipt, SignedReceipt


def find_equivocation(batch: Batch, case: Case, is_signed: IsSigned) -> Wrong | None:
    """Find the first receipt of the batch that overlaps evidence with the operator's signature."""
    by_channel: dict[ChannelId, list[SignedReceipt]] = defaultdict(list)
    for signed in case.evidence:
        by_channel[signed.receipt.channel_id].append(signed)
    for index, ours in enumerate(batch.receipts):
        for other in by_channel.get(ours.receipt.channel_id, ()):
            if _conflict(ours.receipt, other.receipt) and is_signed(other):
                text = f"receipt {index}: its operator signed {receipt_id(other.receipt)} over the same money"
                unit = sum(one.receipt.charge for one in batch.receipts[:index])
                opening = batch.open_receipt(index)
                proof = EquivocationProof(case.header, ours.receipt, opening, other.receipt, other.signature)
                return Wrong(Finding("double_signed", text, index, unit), proof)
    return None


def _conflict(ours: Receipt, other: Receipt) -> bool:
    """Whether `Disputes` accepts two receipts of one channel as an equivocation."""
    return ours != other and other.charge <= other.cumulative and overlap(ours, other)
