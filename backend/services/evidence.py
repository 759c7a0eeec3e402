"""Receipts from elsewhere, such as a consumer's own: a batch that covers their money by others falls."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from backend.domain.case import Finding, Wrong
from backend.domain.hashing import receipt_id
from backend.domain.proofs import EquivocationProof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.batch import Batch, Header
    from backend.domain.case import IsSigned
    from backend.domain.ids import ChannelId
    from backend.domain.receipt import Receipt, SignedReceipt


def contradiction(
    batch: Batch, header: Header, evidence: Sequence[SignedReceipt], is_signed: IsSigned
) -> Wrong | None:
    """The first receipt of the batch over money for which its operator also signed one of `evidence`."""
    on_line: dict[ChannelId, list[SignedReceipt]] = defaultdict(list)
    for signed in evidence:
        on_line[signed.receipt.channel_id].append(signed)
    for index, ours in enumerate(batch.receipts):
        for other in on_line.get(ours.receipt.channel_id, ()):
            if _conflict(ours.receipt, other.receipt) and is_signed(other):
                text = f"receipt {index}: its operator signed {receipt_id(other.receipt)} over the same money"
                unit = sum(one.receipt.charge for one in batch.receipts[:index])
                opening = batch.open_receipt(index)
                proof = EquivocationProof(header, ours.receipt, opening, other.receipt, other.signature)
                return Wrong(Finding("double_signed", text, index, unit), proof)
    return None


def _conflict(ours: Receipt, other: Receipt) -> bool:
    """As `Disputes` has it: two receipts, both worth money, whose intervals of one line overlap."""
    is_overlap = (
        ours.cumulative - ours.charge < other.cumulative and other.cumulative - other.charge < ours.cumulative
    )
    return is_overlap and other.charge > 0 and receipt_id(ours) != receipt_id(other)
