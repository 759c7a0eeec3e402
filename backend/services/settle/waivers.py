"""Which answers payers have to waive before they get further ones.

A quarantined receipt blocks the settlement of all later receipts of its channel until the payer waives it.
Without this check a payer that signs its own vouchers could spend its balance, not sign the waiver, and
withdraw the balance, because the operator cannot collect the later receipts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.serving import NO_WAIVER, Waiver
from backend.services.settle.status import outstanding_refunds

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import ChannelId, ReceiptId
    from backend.domain.settlement import CommittedBatch


def demand_waivers(
    db: Database, quarantined: Collection[ReceiptId], void: Sequence[CommittedBatch], *, is_complete: bool
) -> None:
    """Store what each channel has to waive because of these quarantined receipts. `void`: the operator's
    voided batches. Payers waive before those are refunded: until then their balances could be spent. Unless
    `is_complete`, there may be further quarantined receipts, and no demand is withdrawn.
    """
    with db.read() as tx:
        needed = _first_runs(tx, quarantined, void)
        known = tx.channels.waivers()
    changed = {
        channel: needed.get(channel, NO_WAIVER)
        for channel in needed.keys() | known.keys()
        if needed.get(channel) != known.get(channel) and (is_complete or channel not in known)
    }
    if changed:
        with db.begin() as tx:
            tx.channels.demand_waivers(changed)


def _first_runs(
    tx: UnitOfWork, quarantined: Collection[ReceiptId], void: Sequence[CommittedBatch]
) -> dict[ChannelId, Waiver]:
    """For each channel its first quarantined receipts without another one between them. Those up to what is
    collected once all void batches are refunded were waived.
    """
    refunded = {  # the oldest batch comes last
        span.channel_id: span.before
        for batch in outstanding_refunds(void)
        for span in tx.chain.spans(batch.hash)
    }
    runs: dict[ChannelId, Waiver] = {}
    for receipt in (signed.receipt for signed in tx.receipts.unsettled_among(quarantined)):
        channel = tx.chain.channel(receipt.channel_id)
        if channel is None or receipt.cumulative <= refunded.get(channel.id, channel.collected):
            continue
        begin = receipt.cumulative - receipt.charge
        run = runs.get(channel.id, Waiver(begin, begin))
        if run.until == begin:
            runs[channel.id] = Waiver(run.start, receipt.cumulative)
    return runs
