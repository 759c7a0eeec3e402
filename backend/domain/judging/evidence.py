"""Receipts from elsewhere, such as a consumer's own: a batch that covers their money by others falls."""

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


def contradiction(batch: Batch, case: Case, is_signed: IsSigned) -> Wrong | None:
    """The first receipt of the batch over money for which its operator also signed one of the evidence."""
    on_line: dict[ChannelId, list[SignedReceipt]] = defaultdict(list)
    for signed in case.evidence:
        on_line[signed.receipt.channel_id].append(signed)
    for index, ours in enumerate(batch.receipts):
        for other in on_line.get(ours.receipt.channel_id, ()):
            if _compete(ours.receipt, other.receipt) and is_signed(other):
                text = f"receipt {index}: its operator signed {receipt_id(other.receipt)} over the same money"
                unit = sum(one.receipt.charge for one in batch.receipts[:index])
                opening = batch.open_receipt(index)
                proof = EquivocationProof(case.header, ours.receipt, opening, other.receipt, other.signature)
                return Wrong(Finding("double_signed", text, index, unit), proof)
    return None


def _compete(ours: Receipt, other: Receipt) -> bool:
    """Whether `Disputes` would take the other as a rival of ours on the same channel."""
    return ours != other and other.charge <= other.cumulative and overlap(ours, other)
