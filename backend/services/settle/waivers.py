"""Which answers payers have to waive before they get further ones.

A quarantined receipt blocks the settlement of all later receipts of its channel until the payer waives it.
Without this check a payer that signs its own vouchers could spend its balance, not sign the waiver, and
withdraw the balance, because the operator cannot collect the later receipts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import ChannelId, ReceiptId


def demand_waivers(db: Database, quarantined: Collection[ReceiptId]) -> None:
    """Store how far each channel has to be waived because of these quarantined receipts."""
    with db.read() as tx:
        needed = _first_runs(tx, quarantined)
        known = tx.channels.waivers()
    changed = {
        channel: needed.get(channel, 0)
        for channel in needed.keys() | known.keys()
        if needed.get(channel) != known.get(channel)
    }
    if changed:
        with db.begin() as tx:
            tx.channels.demand_waivers(changed)


def _first_runs(tx: UnitOfWork, quarantined: Collection[ReceiptId]) -> dict[ChannelId, int]:
    """For each channel the end of its first quarantined receipts without another one between them. Those up
    to the collected amount were waived.
    """
    ends: dict[ChannelId, int] = {}
    for receipt in (signed.receipt for signed in tx.receipts.unsettled_among(quarantined)):
        channel = tx.chain.channel(receipt.channel_id)
        if channel is None or receipt.cumulative <= channel.collected:
            continue
        if ends.get(channel.id, receipt.cumulative - receipt.charge) == receipt.cumulative - receipt.charge:
            ends[channel.id] = receipt.cumulative
    return ends
