"""Adoption of batches of ours that are not recorded: a reorg removed their void, another installation
committed them, or the database was restored from an older backup.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from typing import TYPE_CHECKING

from backend.domain.hashing import receipt_id
from backend.domain.serving import UNKNOWN_SALT, NewReceipt
from backend.domain.settlement import BatchRecord
from backend.services.audit.auditor import valid_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account, ChannelId, Hash32
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch

    SignerOf = Callable[[SignedReceipt], Account]

log = logging.getLogger(__name__)


def unrecorded(tx: UnitOfWork, operator: Account) -> list[CommittedBatch]:
    """Valid batches that we recorded as lost or never recorded, after void ones that we never recorded."""
    void = [
        batch for batch in tx.chain.void_batches(operator) if tx.batches.get(operator, batch.number) is None
    ]
    pending = tx.chain.open_batches(operator)
    newest = pending[-1].number if pending else tx.chain.finalised(operator)
    if not (missing := tx.batches.missing(operator, newest)):
        return void
    batches = tx.chain.valid_batches(operator, min(missing) - 1, max(missing))
    return void + [batch for batch in batches if batch.number in missing]


def adopt(
    tx: UnitOfWork, batch: CommittedBatch, receipts: Sequence[SignedReceipt], signer_of: SignerOf
) -> int:
    """Record an unrecorded batch as ours and assign its receipts to it; returns their number. Those of a void
    one are stored, and settled again.

    0 if the batch is void, or recorded by now. `receipts`: those in its data, none if it cannot be read.
    """
    known = tx.batches.get(batch.operator, batch.number)
    if known is not None and not known.is_released:
        return 0
    valid = valid_batch(tx.chain, batch.operator, batch.number)
    is_valid = valid is not None and valid.hash == batch.hash
    if not is_valid and known is not None and known.commit_tx is not None:
        return 0
    digest: Hash32 = batch.header["dataDigest"]
    row = known.commit_tx if known else None
    tx.batches.put(BatchRecord(batch.operator, batch.number, digest, row, is_released=not is_valid))
    _add_lost(tx, batch.operator, receipts, signer_of)
    if not is_valid:
        return 0
    return tx.receipts.adopt(batch.operator, batch.number, [receipt_id(each.receipt) for each in receipts])


def _add_lost(
    tx: UnitOfWork, operator: Account, receipts: Sequence[SignedReceipt], signer_of: SignerOf
) -> None:
    """Store the receipts that a restored database lacks: if the batch is voided they are settled again, and
    without them none behind them could be.
    """
    known = tx.receipts.known([receipt_id(each.receipt) for each in receipts])
    by_channel: dict[ChannelId, list[SignedReceipt]] = {}
    for signed in receipts:
        if receipt_id(signed.receipt) not in known:
            by_channel.setdefault(signed.receipt.channel_id, []).append(signed)
    tx.channels.lock(*by_channel)
    charged = tx.channels.charged(by_channel)
    for channel, lost in by_channel.items():
        found = tx.chain.channel(channel)
        if found is None:
            continue
        free = _without_overlaps(tx, channel, lost)
        tx.receipts.add(
            *(
                NewReceipt(
                    receipt_id(each.receipt), operator, found.payer, each, signer_of(each), UNKNOWN_SALT, None
                )
                for each in free
            )
        )
        tx.channels.advance({channel: max(charged.get(channel, 0), lost[-1].receipt.cumulative)})
        log.warning("%d receipts of channel %s were lost and are read from a batch", len(free), channel)
        if len(free) < len(lost):
            others = len(lost) - len(free)
            log.error("%d receipts of a batch overlap charges of channel %s that differ", others, channel)


def _without_overlaps(
    tx: UnitOfWork, channel: ChannelId, lost: Sequence[SignedReceipt]
) -> list[SignedReceipt]:
    """Those of the receipts, in order, that no stored charge of the channel overlaps."""
    first, last = lost[0].receipt, lost[-1].receipt
    stored = tx.receipts.intervals(channel, first.cumulative - first.charge, last.cumulative)
    ends = [end for _, end in stored]
    free = []
    for signed in lost:
        at = bisect_right(ends, signed.receipt.cumulative - signed.receipt.charge)
        if at == len(stored) or stored[at][0] >= signed.receipt.cumulative:
            free.append(signed)
    return free
