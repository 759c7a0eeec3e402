"""Validates receipts before they are committed: one invalid receipt voids its whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.disputes.receipt_rules import conflict
from backend.domain.hashing import receipt_id
from backend.domain.rules import BadReceipt, Rules
from backend.services.audit.published import signed_by_keys_of

if TYPE_CHECKING:
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ReceiptId
    from backend.domain.receipt import SignedReceipt
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Recover
    from backend.services.settle.convictions import Restrictions


class Validator:
    """Validates one operator's receipts, each once."""

    def __init__(
        self,
        operator: Account,
        chain: ChainView,
        recover: Recover,
        settlement: TypedDomain,
        restrictions: Restrictions,
        now: int,
    ) -> None:
        """`settlement`: EIP-712 domain of receipts; `now`: time of the commit in unix seconds."""
        self.operator = operator
        self._is_signed = signed_by_keys_of(operator, chain, recover, settlement, now)
        self._rules = Rules(chain)
        self._quarantined, self._restrictions = restrictions.quarantined, restrictions
        self._reasons: dict[ReceiptId, str] = {}

    def is_quarantined(self, signed: SignedReceipt) -> bool:
        return bool(self._quarantined) and receipt_id(signed.receipt) in self._quarantined

    def rejection(self, signed: SignedReceipt) -> str:
        """Why the receipt must not be settled; empty if it may be."""
        receipt = receipt_id(signed.receipt)
        if receipt not in self._reasons:
            excluded = self._quarantined.get(receipt) or self._restrictions.held.get(receipt)
            self._reasons[receipt] = excluded or self._contradiction(signed) or self._fault(signed)
        reason = self._reasons[receipt]
        return f"receipt {receipt}: {reason}" if reason else ""

    def _contradiction(self, signed: SignedReceipt) -> str:
        for other, reason in self._restrictions.contradicting:
            if conflict(signed.receipt, other):
                return reason
        return ""

    def _fault(self, signed: SignedReceipt) -> str:
        try:
            self._rules.charges(signed)
        except BadReceipt as error:
            return str(error)
        return "" if self._is_signed(signed) else f"no receipt key of {self.operator} signed it"
