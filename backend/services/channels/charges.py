"""Signs the receipts of charges: by the attribution that arrives in time, else by the charge's fallback.

    charged -> signed, by compare-and-set under the channel's lock

A receipt leaves the process once its transaction is durable. An attribution that arrives after another one
was signed is dropped. What a process that died left unsigned is signed with the fallback when it is overdue.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.hashing import attribution_hash, receipt_id, slices_hash
from backend.domain.receipt import SignedReceipt
from backend.services.channels.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChannelId, ChargeId, ReceiptId
    from backend.domain.receipt import Attributed
    from backend.domain.serving import NewCharge, StoredCharge
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Signer

log = logging.getLogger(__name__)

MAX_OVERDUE = 256
"""Receipts signed in one transaction: other writers must get a turn in between."""


@dataclass(frozen=True, slots=True)
class _Result:
    charge: ChargeId
    channel: ChannelId
    attributed: Attributed | None


class Charges:
    """Signs receipts in groups. Any number of processes may share a database."""

    def __init__(
        self, db: Database, settlement: TypedDomain, receipt_key: Callable[[ChainView], Signer]
    ) -> None:
        """`settlement`: EIP-712 domain of receipts. `receipt_key`: the key in use by a view of the chain."""
        self._db, self._settlement, self._receipt_key = db, settlement, receipt_key
        self._writes: GroupCommit[_Result, ReceiptId | None] = GroupCommit(self._write, "receipts")

    async def sign(self, charge: NewCharge, attributed: Attributed | None) -> ReceiptId | None:
        """Sign the charge's receipt, with the fallback if `attributed` is None. It is durable when this
        returns; None if another one was signed before.
        """
        return await self._writes.submit(_Result(charge.id, charge.interval.channel_id, attributed))

    def _write(self, results: Sequence[_Result]) -> list[ReceiptId | None]:
        found = {result.charge: result.attributed for result in reversed(results)}  # the first one counts
        with self._db.begin() as tx:
            tx.channels.lock(*(result.channel for result in results))
            signed = _sign(tx, self._settlement, self._receipt_key, found)
        return [signed.get(result.charge) for result in results]


def sign_overdue(
    tx: UnitOfWork,
    operator: Account,
    settlement: TypedDomain,
    receipt_key: Callable[[ChainView], Signer],
    now: int,
) -> int:
    """Sign receipts that were due by `now` (unix seconds), with their fallbacks; returns their number.

    At most `MAX_OVERDUE` at once. Errors: those of `receipt_key`.
    """
    overdue = tx.charges.overdue(operator, now, MAX_OVERDUE)
    tx.channels.lock(*(channel for _, channel in overdue))
    signed = _sign(tx, settlement, receipt_key, {charge: None for charge, _ in overdue})
    if signed:
        log.warning("signed %d overdue receipts with the attribution of their charges", len(signed))
    return len(signed)


def _sign(
    tx: UnitOfWork,
    settlement: TypedDomain,
    receipt_key: Callable[[ChainView], Signer],
    found: Mapping[ChargeId, Attributed | None],
) -> dict[ChargeId, ReceiptId]:
    """Sign those of the charges that have no receipt. The caller holds the locks of their channels."""
    unsigned = tx.charges.unsigned(found) if found else ()
    if not unsigned:
        return {}
    key = receipt_key(tx.chain)
    numbers = {}
    for stored in unsigned:
        signed = _receipt(stored, found[stored.id] or stored.attributed, settlement, key)
        numbers[stored.id] = receipt_id(signed.receipt)
        tx.charges.sign(stored.id, numbers[stored.id], signed, key.account)
    return numbers


def _receipt(
    stored: StoredCharge, attributed: Attributed, settlement: TypedDomain, key: Signer
) -> SignedReceipt:
    charge = stored.signed.charge
    if slices_hash(attributed.slices) != charge.slices_hash:
        raise ValueError(f"the attribution of charge {stored.id} is of other versions")
    receipt = charge.receipt(attribution_hash(attributed.method, attributed.slices))
    signature = key.sign(settlement.receipt_digest(receipt))
    return SignedReceipt(receipt, attributed.method, attributed.slices, signature)
