"""Finds equivocation: a second receipt that the operator signed over money of a batch."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from backend.domain.disputes.proofs import EquivocationProof
from backend.domain.disputes.receipt_rules import conflict
from backend.domain.hashing import receipt_id
from backend.domain.judging.case import Finding, Wrong

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.domain.batch import Batch
    from backend.domain.ids import ChannelId
    from backend.domain.judging.case import Case, IsSigned
    from backend.domain.receipt import SignedReceipt


def find_equivocation(batch: Batch, case: Case, is_signed: IsSigned) -> Wrong | None:
    """Find the first receipt of the batch that overlaps evidence with the operator's signature."""
    for index, other in _conflicts(batch, case.evidence):
        if is_signed(other):
            text = f"receipt {index}: its operator signed {receipt_id(other.receipt)} over the same money"
            unit = sum(one.receipt.charge for one in batch.receipts[:index])
            ours, opening = batch.receipts[index].receipt, batch.open_receipt(index)
            proof = EquivocationProof(case.header, ours, opening, other.receipt, other.signature)
            return Wrong(Finding("double_signed", text, index, unit), proof)
    return None


def disowned_receipts(
    batch: Batch, evidence: Sequence[SignedReceipt], was_signed: IsSigned
) -> Iterator[Finding]:
    """Find receipts of a batch without provable fault that overlap evidence whose key the operator retired.

    `was_signed`: whether a key of the operator, retired or not, signed a receipt. The key may have leaked, so
    this proves nothing.
    """
    for index, other in _conflicts(batch, evidence):
        if was_signed(other):
            text = f"receipt {index} collects the money of {receipt_id(other.receipt)}, whose key was retired"
            yield Finding("disowned", text, index)


def _conflicts(batch: Batch, evidence: Sequence[SignedReceipt]) -> Iterator[tuple[int, SignedReceipt]]:
    """Index of a receipt of the batch, and evidence that overlaps it."""
    by_channel: dict[ChannelId, list[SignedReceipt]] = defaultdict(list)
    for signed in evidence:
        by_channel[signed.receipt.channel_id].append(signed)
    for index, ours in enumerate(batch.receipts):
        for other in by_channel.get(ours.receipt.channel_id, ()):
            if conflict(ours.receipt, other.receipt):
                yield index, other
