"""Whether a receipt may stand in a batch, judged before it is committed: a bad one convicts them all."""

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


class Vetting:
    """Of one operator's receipts, each judged once."""

    def __init__(
        self,
        operator: Account,
        chain: ChainView,
        recover: Recover,
        settlement: TypedDomain,
        aside: Mapping[ReceiptId, str],
    ) -> None:
        """`settlement`: the domain that receipts are signed under; `aside`: what convictions set aside."""
        self.operator = operator
        self._is_signed = signed_by_keys_of(operator, chain, recover, settlement)
        self._rules = Rules(chain)
        self._aside = aside
        self._refusals: dict[ReceiptId, str] = {}

    def is_aside(self, signed: SignedReceipt) -> bool:
        return bool(self._aside) and receipt_id(signed.receipt) in self._aside

    def refusal(self, signed: SignedReceipt) -> str:
        """Why the receipt is not settled; empty if it is."""
        receipt = receipt_id(signed.receipt)
        if receipt not in self._refusals:
            self._refusals[receipt] = self._aside.get(receipt) or self._fault(signed)
        why = self._refusals[receipt]
        return f"receipt {receipt}: {why}" if why else ""

    def _fault(self, signed: SignedReceipt) -> str:
        try:
            self._rules.charges(signed)
        except BadReceipt as error:
            return str(error)
        return "" if self._is_signed(signed) else f"no receipt key of {self.operator} signed it"
