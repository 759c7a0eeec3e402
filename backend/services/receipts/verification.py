"""Verifies a receipt without trusting its source: from the receipt, the indexed chain and public batch data.

It calls no API, no engine and no node. The chain is what this home has indexed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.batch import Header
from backend.domain.errors import DomainError, InvalidInput
from backend.domain.hashing import receipt_id
from backend.domain.merkle import InvalidOpening
from backend.domain.receipt_checks import (
    Check,
    ReceiptFile,
    charge_check,
    charge_id_check,
    hash_check,
    is_in_place,
    other_slices_check,
    retired_key_check,
    slices_check,
)
from backend.services.audit.published import spans_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.db.unit_of_work import Database
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, ChargeId
    from backend.domain.receipt import Receipt
    from backend.domain.settlement import CommittedBatch
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Recover
    from backend.services.audit.auditor import Auditor


class Verification:
    """`settlement` is the EIP-712 domain of receipts."""

    def __init__(
        self,
        db: Database,
        auditor: Auditor,
        recover: Recover,
        settlement: TypedDomain,
    ) -> None:
        self._db, self._auditor = db, auditor
        self._recover, self._settlement = recover, settlement

    def checks(self, file: ReceiptFile, charge_got: ChargeId | None = None) -> Iterator[Check]:
        """Yields the checks one by one, as they are made. `charge_got`: as of `charge_id_check`."""
        yield hash_check(file)
        with self._db.read() as tx:
            yield self._signature(tx.chain, file)
            slices = slices_check(file.signed)
            yield slices
            yield charge_check(tx.chain, file.signed) if slices.is_right else other_slices_check()
        yield self._inclusion(file)
        if charged := charge_id_check(file, charge_got):
            yield charged

    def _signature(self, chain: ChainView, file: ReceiptFile) -> Check:
        try:
            signer = self._recover(
                self._settlement.receipt_digest(file.signed.receipt), file.signed.signature
            )
        except InvalidInput as error:
            return Check("signature", is_right=False, message=f"malformed: {error}")
        known = chain.operator(file.operator)
        if known is None:
            return Check(
                "signature", is_right=None, message=f"by {signer}; {file.operator} is not indexed here"
            )
        if signer not in known.keys:
            message = f"by {signer}, which is NOT a receipt key of {file.operator}"
            return Check("signature", is_right=False, message=message)
        message = f"by {signer}, which is a receipt key of {file.operator}"
        if signer not in known.retired:
            return Check("signature", is_right=True, message=message)
        batch = _covering(chain, file.operator, file.signed.receipt)
        is_before = batch is not None and known.is_receipt_key(signer, int(batch.header["committedAt"]))
        return retired_key_check(message, is_before=is_before)

    def _inclusion(self, file: ReceiptFile) -> Check:
        receipt = file.signed.receipt
        own = receipt_id(receipt)
        with self._db.read() as tx:
            batch = _covering(tx.chain, file.operator, receipt)
            spans = () if batch is None else spans_of(tx.chain, batch.hash)
        if batch is None:
            return Check("batch", is_right=None, message="in no batch that is indexed here yet")
        try:
            data = self._auditor.batch(file.operator, batch.number)
        except DomainError as error:
            return Check(
                "batch", is_right=None, message=f"batch {batch.number} cannot be opened here: {error}"
            )
        ids = (receipt_id(signed.receipt) for signed in data.receipts)
        index = next((place for place, found in enumerate(ids) if found == own), None)
        if index is None:
            text = f"batch {batch.number} collects the same amount by another receipt: an equivocation"
            return Check("batch", is_right=False, message=text)
        header = Header.from_chain(batch.header)
        try:
            is_right = is_in_place(receipt, header, spans, data.open_receipt(index))
        except InvalidOpening as error:
            return Check("batch", is_right=False, message=str(error))
        place = f"leaf {index} of {header.receipts_count} of batch {batch.number} ({batch.state})"
        return Check(
            "batch", is_right, f"{place}, {'' if is_right else 'NOT '}proved by its path to the root"
        )


def _covering(chain: ChainView, operator: Account, receipt: Receipt) -> CommittedBatch | None:
    """The batch that collected this receipt's part of the channel's cumulative."""
    starts_at = receipt.cumulative - receipt.charge
    for batch in reversed(chain.valid_batches(operator)):
        for span in chain.spans(batch.hash):
            is_there = span.channel_id == receipt.channel_id
            if is_there and span.start < receipt.cumulative and starts_at < span.until:
                return batch
    return None
