"""Ask the chain whether a receipt or an entry stands in a batch, with openings from public data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.batch import camel_case
from backend.domain.errors import NotFound
from backend.domain.hashing import receipt_id
from backend.domain.receipt import Receipt
from backend.services.audit.auditor import standing

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from backend.domain.batch import Entry
    from backend.domain.ids import Account, ReceiptId
    from backend.ports.chain import Chain
    from backend.ports.settlement import MirrorTx
    from backend.services.audit.auditor import Auditor


class Proofs:
    """Errors of all methods: as `Auditor.batch`; `Reverted` for a batch that fell out of the chain's ring."""

    def __init__(
        self, read: Callable[[], AbstractContextManager[MirrorTx]], auditor: Auditor, chain: Chain
    ) -> None:
        self._read, self._auditor, self._chain = read, auditor, chain

    def receipt_stands(self, operator: Account, number: int, receipt: ReceiptId) -> bool:
        """Whether Settlement finds the receipt in the batch, signed by a key of the operator.

        Errors: `NotFound` if the batch's data has no such receipt.
        """
        batch = self._auditor.batch(operator, number)
        found = ((i, s) for i, s in enumerate(batch.receipts) if receipt_id(s.receipt) == receipt)
        index, signed = next(found, (None, None))
        if index is None or signed is None:
            raise NotFound(f"batch {number} of {operator} has no receipt {receipt}", "receipt")
        fields = {camel_case(name): getattr(signed.receipt, name) for name in Receipt.__slots__}
        opening = batch.open_receipt(index).abi
        return self._ask("verifyReceipt", operator, number, fields, opening, signed.signature)

    def entry_stands(self, operator: Account, number: int, entry: Entry) -> bool:
        """Whether Settlement finds that the entry earned its account what the batch's data says."""
        batch = self._auditor.batch(operator, number)
        opening = batch.open_entry(entry.account, entry.receipt, entry.slice, entry.part).abi
        key = {
            "account": entry.account,
            "receiptIndex": entry.receipt,
            "slice": entry.slice,
            "part": entry.part,
        }
        return self._ask("verifyEntry", operator, number, key, opening | {"value": entry.value})

    def _ask(self, function: str, operator: Account, number: int, *args: Any) -> bool:
        with self._read() as tx:
            batches = standing(tx.chain.batches(operator))
        header = next(dict(batch.header) for batch in batches if batch.number == number)
        return bool(self._chain.call("Settlement", function, header, *args))
