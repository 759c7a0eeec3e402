"""Reports retired receipt keys, and receipts that their operators can disown or have disowned.

A receipt of a retired key does not convict a batch that is committed later. Until it is settled, its holder
needs the signature of another key, which an honest operator gives for the same receipt.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.domain.hashing import receipt_id
from backend.domain.ids import ZERO_HASH
from backend.domain.judging.evidence import disowned_receipts
from backend.services.watch.news import News, news

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.domain.batch import Batch
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain_view import ChainView
    from backend.services.audit.cases import Cases

_ALWAYS = 0
"""Every key that was ever registered counts for a batch of this time."""


def retirements(
    view: ChainView, cases: Cases, operator: Account, evidence: Sequence[SignedReceipt]
) -> Iterator[News]:
    """The operator's retired keys, and unsettled receipts among the evidence that only those signed."""
    known = view.operator(operator)
    if known is None or not known.retired:
        return
    for key, at in known.retired.items():
        text = f"receipt key {key} was retired at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
        yield News("key_retired", operator, 0, ZERO_HASH, text)
    was_signed = cases.is_signed(view, operator, _ALWAYS)
    is_signed = cases.is_signed(view, operator, max(known.retired.values()) + 1)
    proven = {signed.receipt for signed in evidence if is_signed(signed)}
    for signed in evidence:
        channel = view.channel(signed.receipt.channel_id)
        if channel is None or channel.operator != operator or signed.receipt.cumulative <= channel.collected:
            continue
        if signed.receipt not in proven and was_signed(signed):
            text = f"receipt {receipt_id(signed.receipt)} is unsettled and its key retired: request it again"
            yield News("unproven", operator, 0, ZERO_HASH, text)


def disowned(
    view: ChainView, cases: Cases, committed: CommittedBatch, batch: Batch, evidence: Sequence[SignedReceipt]
) -> Iterator[News]:
    """Receipts of a batch that contradict evidence of a retired key."""
    if not evidence:
        return
    was_signed = cases.is_signed(view, committed.operator, _ALWAYS)
    for finding in disowned_receipts(batch, evidence, was_signed):
        yield news(committed, finding.what, finding.message)
