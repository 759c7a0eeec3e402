"""Consequences of retired receipt keys for settlement.

A batch must not contain signatures of a key that is retired when it is committed: they would not answer a
demand. While a retirement is not indexed, nothing is committed; afterwards the unsettled receipts are signed
again by the key in use. The receipts stay the same, so that this is no equivocation.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from backend.domain.hashing import to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Signer

log = logging.getLogger(__name__)

REGISTRY, RETIRE = "OperatorRegistry", "retireReceiptKey"
MAX_SIGNED = 256
"""Receipts that one transaction signs again."""


def retired_keys(view: ChainView, operator: Account) -> Mapping[Account, int]:
    """The operator's retired receipt keys, each with the unix second of its retirement."""
    known = view.operator(operator)
    return {} if known is None else known.retired


def pending_retirement(tx: UnitOfWork, operator: Account) -> str:
    """Why nothing may be committed now: a retirement that is queued or sent and not indexed; else empty."""
    retired = retired_keys(tx.chain, operator)
    for sent in tx.transactions.not_failed(operator, REGISTRY, RETIRE):
        if sent.args[0] not in retired:
            return f"receipt key {sent.args[0]} is being retired by transaction {sent.id}"
    return ""


def recent_retirement(chain: Chain, view: ChainView, operator: Account) -> str:
    """Why no batch may be built now, by the chain itself: a retirement that is not indexed, perhaps sent by
    another installation or wallet, or no block since one; else empty. Errors: `Unavailable`.
    """
    known = view.operator(operator)
    if known is None:
        return ""
    for key in known.active_keys:
        if chain.call(REGISTRY, "retiredAt", key):
            return f"receipt key {key} was retired, which is not indexed yet"
    # A retired key still counts for a batch that is committed in the second of its retirement.
    if known.retired and max(known.retired.values()) >= chain.head().timestamp:
        return "a receipt key was retired in the newest block's second"
    return ""


def sign_again(
    db: Database, operator: Account, settlement: TypedDomain, receipt_key: Callable[[ChainView], Signer]
) -> int:
    """Replace the retired keys' signatures of unsettled receipts; returns their number.

    `settlement`: EIP-712 domain of receipts. Errors: those of `receipt_key`.
    """
    with db.read() as tx:
        known = tx.chain.operator(operator)
        if known is None or not known.retired:
            return 0
        receipts = tx.receipts.signed_by_others(operator, known.active_keys)
    # SQLite has one writer: a long transaction would delay the charges of running answers.
    for start in range(0, len(receipts), MAX_SIGNED):
        some = receipts[start : start + MAX_SIGNED]
        with db.begin() as tx:
            key = receipt_key(tx.chain)
            signatures = {number: key.sign(settlement.digest(to_bytes(number))) for number in some}
            tx.receipts.sign_again(key.account, signatures)
        log.warning("signed %d unsettled receipts again with %s", len(some), key.account)
    return len(receipts)
