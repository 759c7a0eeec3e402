"""Validates receipts before they are committed: one invalid receipt voids its whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.hashing import receipt_id
from backend.domain.rules import BadReceipt, Rules
from backend.services.audit.published import signed_by_keys_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ReceiptId
    from backend.domain.receipt import SignedReceipt
    from backend.ports.chain import ChainView, Recover


class Validator:
    """Validates one operator's receipts, each once."""

    def __init__(
        self,
        operator: Account,
        chain: ChainView,
        recover: Recover,
        settlement: TypedDomain,
        quarantined: Mapping[ReceiptId, str],
        now: int,
    ) -> None:
        """`settlement`: EIP-712 domain of receipts; `quarantined`: from `Convictions`; `now`: time of the
        commit in unix seconds.
        """
        self.operator = operator
        self._is_signed = signed_by_keys_of(operator, chain, recover, settlement, now)
        self._rules = Rules(chain)
        self._quarantined = quarantined
        self._reasons: dict[ReceiptId, str] = {}

    def is_quarantined(self, signed: SignedReceipt) -> bool:
        return bool(self._quarantined) and receipt_id(signed.receipt) in self._quarantined

    def rejection(self, signed: SignedReceipt) -> str:
        """Why the receipt must not be settled; empty if it may be."""
        receipt = receipt_id(signed.receipt)
        if receipt not in self._reasons:
            self._reasons[receipt] = self._quarantined.get(receipt) or self._fault(signed)
        reason = self._reasons[receipt]
        return f"receipt {receipt}: {reason}" if reason else ""

    def _fault(self, signed: SignedReceipt) -> str:
        try:
            self._rules.charges(signed)
        except BadReceipt as error:
            return str(error)
        return "" if self._is_signed(signed) else f"no receipt key of {self.operator} signed it"
