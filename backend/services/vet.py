"""Whether a receipt may stand in a batch, judged before it is committed: a bad one convicts them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from backend.domain.hashing import receipt_id
from backend.domain.rules import BadReceipt, Rules

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
        known = chain.operator(operator)
        self.operator = operator
        self._keys = () if known is None else known.keys
        self._rules = Rules(chain)
        self._recover, self._settlement, self._aside = recover, settlement, aside
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
            signer = self._recover(self._settlement.receipt_digest(signed.receipt), signed.signature)
        except (BadReceipt, InvalidInput) as error:
            return str(error)
        return "" if signer in self._keys else f"{signer} is no receipt key of {self.operator}"
